package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

func TestExt4Size(t *testing.T) {
	// The fields of the superblock, as the kernel's documentation numbers them.
	image := make([]byte, 2048)
	put := func(offset int, value uint32) { binary.LittleEndian.PutUint32(image[1024+offset:], value) }
	put(0x4, 1000)
	put(0x18, 2)
	put(0x150, 3)
	path := filepath.Join(t.TempDir(), "disk")
	for features, want := range map[uint32]uint64{0: 1000, 0x80: 3<<32 + 1000} {
		put(0x60, features)
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		if blocks, size, err := ext4Size(path); err != nil || blocks != want || size != 4096 {
			t.Errorf("%d blocks of %d, %v", blocks, size, err)
		}
	}
}
