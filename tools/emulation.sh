#!/bin/sh
# Lets this host run programs of another architecture: tools/emulation.sh ARCH
#
# QEMU's emulator is registered with the kernel's binfmt_misc where that is allowed (root, or sudo that
# asks for no password). An ordinary user's build registers it for itself, where the kernel lets it.
set -eu
architecture=$1
handlers=/proc/sys/fs/binfmt_misc
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

if [ "$architecture" = "$(uname -m)" ] || [ -e "$handlers/qemu-$architecture" ]; then
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    as_root=
elif sudo -n true 2>/dev/null; then
    as_root='sudo -n'
else
    exit 0
fi
echo "registering the emulator of $architecture"
# $as_root is a list of words.
# shellcheck disable=SC2086
if ! { [ -e "$handlers/register" ] || $as_root mount -t binfmt_misc binfmt_misc "$handlers"; } ||
    ! $as_root update-binfmts --enable "qemu-$architecture"; then
    echo "make: this host does not let programs of $architecture run" >&2
    exit 1
fi
