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

# matches REGEX VALUE: the whole value is one line that the extended regular expression matches.
matches() {
    [ "$(printf '%s' "$2" | wc -l)" = 0 ] && printf '%s\n' "$2" | grep -Eqx "$1"
}

if [ -n "$IMAGE_SIZE" ] && ! matches '[1-9][0-9]*[KMGTkmgt]?(i?B)?' "$IMAGE_SIZE"; then
    fail "IMAGE_SIZE is '$IMAGE_SIZE'; it must be a size in bytes, or with K, M, G or T, such as 2500M"
fi
if [ -n "$IMAGE_SIZE" ]; then
    case $IMAGE_SIZE in
    *[Kk]*) power=1 ;;
    *[Mm]*) power=2 ;;
    *[Gg]*) power=3 ;;
    *[Tt]*) power=4 ;;
    *) power=0 ;;
    esac
    # Not the shell's own arithmetic, which overflows. No Debian fits below; above, no ext4 of ours.
    awk -v number="${IMAGE_SIZE%%[!0-9]*}" -v power="$power" \
        'BEGIN { size = number * 1024 ^ power; exit !(size >= 16 * 1024 ^ 2 && size <= 16 * 1024 ^ 4) }' ||
        fail "IMAGE_SIZE is '$IMAGE_SIZE'; it must be between 16M and 16T"
fi

# A reference as OCI registries take it, without a tag: lower case, parts joined by single separators.
part='[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*'
if ! matches "$part(/$part)*" "$IMAGE_NAME"; then
    fail "IMAGE_NAME is '$IMAGE_NAME'; it must be an image's name, such as bouvet-devbox (lower case, no tag)"
fi
