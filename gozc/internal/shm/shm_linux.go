package shm

import (
	"errors"
	"fmt"
	"os"

	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/failpoint"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/fault"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// Map maps the length bytes at address again.
//
// raylet is the process that holds the store's file open, 0 if unknown; only CopyOnWrite uses it. No descriptor
// stays open: it would keep the memory of the whole store alive after Ray has shut down.
func Map(address, length int64, raylet int, mode Mode) (Mapping, error) {
	region, err := Locate(address, length)
	if err != nil {
		return Mapping{}, err
	}
	if !region.Shared || region.File.Inode == 0 {
		return Mapping{}, fmt.Errorf("%w: %d bytes at %#x", ErrPrivate, length, address)
	}
	start, end := pages(address, length)
	var base int64
	switch mode {
	case CopyOnWrite:
		base, err = mapPrivate(region, start, end, raylet)
	case ReadOnly:
		base, err = mapReadOnly(start, end)
	default:
		err = fmt.Errorf("%w: %d", ErrMode, mode)
	}
	if err != nil {
		return Mapping{}, err
	}
	return Mapping{Address: base + address - start, Base: base, Length: end - start, Mode: mode}, nil
}

// MapFile maps the first length bytes of an open file, copy-on-write. The descriptor stays the caller's.
//
// The whole file in one mapping lies on huge pages where its file system keeps it in large folios.
func MapFile(descriptor int, length int64) (Mapping, error) {
	own, err := 0, failpoint.At("fcntl")
	if err == nil {
		own, err = unix.FcntlInt(uintptr(descriptor), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		return Mapping{}, fmt.Errorf("duplicate descriptor %d: %w", descriptor, scarce(err))
	}
	base, err := mapCopyOnWrite(own, "the file", 0, length)
	if err != nil {
		return Mapping{}, err
	}
	fault.ExplainFile(base, length)
	return Mapping{Address: base, Base: base, Length: length, Mode: CopyOnWrite}, nil
}

// Unmap undoes Map.
func (m Mapping) Unmap() error {
	return unmap(m.Base, m.Length)
}

func unmap(base, length int64) error {
	if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, uintptr(base), uintptr(length), 0); errno != 0 {
		return fmt.Errorf("unmap %d bytes at %#x: %w", length, base, errno)
	}
	return nil
}

func mapPrivate(region Region, start, end int64, raylet int) (int64, error) {
	descriptor, path, err := openFile(region, raylet)
	if err != nil {
		return 0, err
	}
	return mapCopyOnWrite(descriptor, path, region.Offset+start-region.Start, end-start)
}

// mapCopyOnWrite maps a part of a file, and closes the descriptor.
func mapCopyOnWrite(descriptor int, path string, offset, length int64) (int64, error) {
	// One that is not in non-blocking mode starts no poller: see openFile.
	file := os.NewFile(uintptr(descriptor), path)
	defer file.Close()
	mapped, err := mmap.MMap(nil), failpoint.At("mmap")
	if err == nil {
		mapped, err = mmap.MapRegion(file, int(length), mmap.COPY, 0, offset)
	}
	if err != nil {
		return 0, fmt.Errorf("map %d bytes at %d of %s: %w", length, offset, path, scarce(err))
	}
	return mem.Address(mapped), nil
}

// mapReadOnly duplicates the mapping: mremap with an old size of 0 does that for shared ones, without the file.
func mapReadOnly(start, end int64) (int64, error) {
	size := end - start
	base, err := mremap(start, 0, size, unix.MREMAP_MAYMOVE, 0)
	if err != nil {
		return 0, fmt.Errorf("duplicate the mapping of %d bytes at %#x: %w", size, start, scarce(err))
	}
	if err := mprotect(mem.Bytes(base, size), unix.PROT_READ); err != nil {
		err = fmt.Errorf("protect %d bytes at %#x: %w", size, base, scarce(err))
		return 0, errors.Join(err, unmap(base, size))
	}
	fault.Explain(base, size)
	return base, nil
}

// pages rounds a range to whole pages.
func pages(address, length int64) (start, end int64) {
	size := int64(os.Getpagesize())
	return address / size * size, (address + length + size - 1) / size * size
}
