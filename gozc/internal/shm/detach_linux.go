package shm

import (
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/failpoint"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// Detach makes a mapping this process's own: it keeps the bytes that it has, and where it lies, whatever is written
// to the file from then on. It takes as much memory as the mapping is long.
//
// Other threads may read the mapping meanwhile, and write to it where it can be written; none may unmap it. Without an
// error, no byte comes from the file any more; after one, some may.
func (m Mapping) Detach() error {
	if m.Mode == CopyOnWrite {
		return ownPages(m.Base, m.Length)
	}
	return replaceByCopy(m.Base, m.Length)
}

// ownPages makes every page of a copy-on-write mapping this process's own, as a write to it would.
func ownPages(address, length int64) error {
	return inChunks("detach", address, address+length, func(from, size int64) error {
		err := madvise(mem.Bytes(from, size), unix.MADV_POPULATE_WRITE)
		if err == unix.EINVAL { // before Linux 5.14
			return rewrite(from, size)
		}
		if err != nil {
			return fmt.Errorf("detach %d bytes at %#x: %w", size, from, err)
		}
		return nil
	})
}

// rewrite writes to every page what is there already. It does so atomically: a plain write could undo one that
// another thread makes at the same time. A page that cannot be had is a panic and not the end of the process.
func rewrite(address, length int64) error {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	words := mem.Int32s(address, length/4)
	for at := 0; at < len(words); at += os.Getpagesize() / 4 {
		atomic.AddInt32(&words[at], 0)
	}
	return nil
}

// replaceByCopy puts a read-only copy in the place of a mapping. Who reads it meanwhile finds the same bytes before,
// during and after that.
func replaceByCopy(address, length int64) error {
	var copied []byte
	err := failpoint.At("mmap")
	if err == nil {
		copied, err = unix.Mmap(-1, 0, int(length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	}
	if err != nil {
		return fmt.Errorf("detach %d bytes at %#x: %w", length, address, err)
	}
	if err := moveCopy(copied, address, length); err != nil {
		unix.Munmap(copied)
		return fmt.Errorf("detach %d bytes at %#x: %w", length, address, err)
	}
	return nil
}

func moveCopy(copied []byte, address, length int64) error {
	at := mem.Address(copied)
	err := inChunks("copy", address, address+length, func(from, size int64) error {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		copy(copied[from-address:], mem.Bytes(from, size))
		return nil
	})
	if err != nil {
		return err
	}
	if err := mprotect(copied, unix.PROT_READ); err != nil {
		return err
	}
	const flags = unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED
	_, err = mremap(at, length, length, flags, address)
	return err
}
