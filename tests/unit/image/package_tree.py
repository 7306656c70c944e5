"""A small tree with packages of every kind."""

from __future__ import annotations

import json
from pathlib import Path

from bouvet.formats import ext4
from bouvet.formats.tree import FileTree, Inode, directory, regular_file, symlink

TIME = 1_700_000_000
STATUS = """\
Package: libbig
Status: install ok installed
Version: 1:2.0+dfsg-1
Architecture: amd64
Description: big
 Version: 9 is no field, it belongs to the description

Package: python3-pip
Status: install ok installed
Version: 23.0
Architecture: all

Package: gone
Status: deinstall ok config-files
Version: 1
Architecture: all
"""
CRATES = '[v1]\n"ripgrep 14.1.0 (registry+index)" = ["rg"]\n'
NODE = "#define NODE_MAJOR_VERSION 20\n#define NODE_MINOR_VERSION 1\n#define NODE_PATCH_VERSION 2\n"
CHANNEL = 'manifest-version = "2"\n[pkg.rustc]\nversion = "1.90.0 (1159e78c4 2025-09-14)"\n'
MANIFEST = {"name": "bouvet-tiny", "architecture": "x86_64", "layers": ["debian", "node"]}
SITE = "usr/local/lib/python3.11/dist-packages/"
MODULES = "usr/lib/node_modules/"
RUST = "usr/local/rustup/toolchains/stable/lib/"


def file(content: str = "x") -> Inode:
    """Return a regular file of the tree's time."""
    return regular_file(content.encode(), mtime=TIME * 10**9)


def package_tree() -> FileTree:
    """Return the tree; what no record tells is `/opt/own`."""
    files = {
        "opt/own": "own",
        "usr/lib/os-release": 'ID=debian\nVERSION_ID="12"\n',
        "usr/share/bouvet/manifest.json": json.dumps(MANIFEST),
        "var/lib/dpkg/status": STATUS,
        "var/lib/dpkg/info/libbig:amd64.list": "/.\n/lib\n/lib/big.so\n/usr/share/doc/gone\n",
        "usr/lib/big.so": "x" * 10_000,
        "var/lib/dpkg/info/python3-pip.list": "/usr/lib/python3/dist-packages/pip-23.0.dist-info/METADATA\n",
        "usr/lib/python3/dist-packages/pip-23.0.dist-info/METADATA": "Name: pip\nVersion: 23.0\n",
        SITE
        + "Flask_Login-1.0.dist-info/METADATA": "Name: Flask_Login\nVersion: 1.0\nLicense: MIT\n\nName: no\n",
        SITE + "Flask_Login-1.0.dist-info/RECORD": 'flask_login.py,sha256=x,1\n"../../../bin/a,b",,\n',
        SITE + "flask_login.py": "x",
        "usr/local/bin/a,b": "x",
        MODULES + "npm/package.json": json.dumps(
            {"name": "npm", "version": "9.0.0", "license": "Artistic-2.0"}
        ),
        MODULES + "npm/test/package.json": json.dumps({"name": "no", "version": "0"}),
        MODULES + "npm/node_modules/@scope/a/package.json": json.dumps(
            {"name": "@scope/a", "version": "1.0.0"}
        ),
        MODULES + "npm/node_modules/@scope/a/index.js": "x" * 5000,
        "usr/include/node/node_version.h": NODE,
        "usr/bin/node": "x",
        "usr/local/cargo/.crates.toml": CRATES,
        "usr/local/cargo/bin/rg": "x",
        RUST + "rustlib/multirust-channel-manifest.toml": CHANNEL,
        RUST + "libstd.rlib": "x",
    }
    tree: FileTree = {name.encode(): file(content) for name, content in files.items()}
    tree[b"etc/os-release"] = symlink(b"../usr/lib/os-release", mtime=TIME * 10**9)
    for path in list(tree):
        parts = path.split(b"/")
        for depth in range(len(parts)):
            tree.setdefault(b"/".join(parts[:depth]), directory(mtime=TIME * 10**9))
    return tree


def write_image(path: Path, tree: FileTree, *, time: int = TIME) -> Path:
    """Write a tree as an image."""
    plan = ext4.plan_filesystem(tree, ext4.Ext4Options(label="tiny", timestamp=time))
    with path.open("w+b") as target:
        ext4.write_filesystem(plan, target.fileno())
    return path
