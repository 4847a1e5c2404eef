#!/usr/bin/env bash
# fetch_litert.sh x86_64|aarch64 FOLDER [PYTHON]   libLiteRt.so 2.3.0 out of the ai-edge-litert wheel, hash checked
set -euo pipefail
ARCH=$1 FOLDER=$2 PYTHON=${3:-python3}
case $ARCH in
x86_64) HASH=1f15078a6725d2357d9de9221664c29afa0545d807559c5f7199ce5e40b96b23 ;;
aarch64) HASH=853fc608f96da87bd5f3458465dfb9abbf18d5ae6b94eceacead407146f175ae ;;
*) echo "no hash for $ARCH; x86_64 and aarch64 are known" >&2; exit 2 ;;
esac

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
echo "ai-edge-litert==2.3.0 --hash=sha256:$HASH" > "$WORK/requirements.txt"
"$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
	--platform "manylinux_2_27_$ARCH" --python-version 3.11 --dest "$WORK" -r "$WORK/requirements.txt"
mkdir -p "$FOLDER"
"$PYTHON" - "$WORK"/*.whl "$FOLDER" <<'PYTHON'
import sys, zipfile
zipfile.ZipFile(sys.argv[1]).extract("ai_edge_litert/libLiteRt.so", sys.argv[2])
PYTHON
mv "$FOLDER/ai_edge_litert/libLiteRt.so" "$FOLDER/"
rmdir "$FOLDER/ai_edge_litert"
