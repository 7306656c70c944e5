#!/bin/sh
# Checks the variables that make was given: ARCH, IMAGE_SIZE and IMAGE_NAME, from the environment.
set -eu

fail() {
    echo "make: $1" >&2
    exit 2
}

case $ARCH in
x86_64 | aarch64) ;;
*) fail "ARCH is '$ARCH'; it must be x86_64 or aarch64" ;;
esac

case $IMAGE_SIZE in
'') ;;
*[!0-9KMGT]* | [!1-9]* | *[KMGT]?*)
    fail "IMAGE_SIZE is '$IMAGE_SIZE'; it must be a size in bytes, or with K, M, G or T, such as 2500M"
    ;;
esac

# A reference as OCI registries take it, without a tag: lower case, parts joined by single separators.
part='[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*'
if ! printf '%s\n' "$IMAGE_NAME" | grep -Eqx "$part(/$part)*" || [ "$(printf '%s' "$IMAGE_NAME" | wc -l)" != 0 ]; then
    fail "IMAGE_NAME is '$IMAGE_NAME'; it must be an image's name, such as bouvet-devbox (lower case, no tag)"
fi
