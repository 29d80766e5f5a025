package shm

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"

	"ray-zerocopy/gozc/mem"
)

// mappings holds what Map has made, by the address that it returned.
var mappings = struct {
	sync.Mutex
	byAddress map[int64]*mapping
}{byAddress: make(map[int64]*mapping)}

// A mapping is whole pages. Its lock keeps it from being unmapped while it is made this process's own.
type mapping struct {
	sync.Mutex
	base, length int64 // length is 0 once it is unmapped
	mode         Mode
	unmap        func() error
	detached     bool
}

// Map maps the length bytes at address again and returns the address of the first of them in the new mapping.
//
// raylet is the process that holds the store's file open, 0 if unknown; only CopyOnWrite uses it. No descriptor
// stays open: it would keep the memory of the whole store alive after Ray has shut down.
func Map(address, length int64, raylet int, mode Mode) (int64, error) {
	region, err := Locate(address, length)
	if err != nil {
		return 0, err
	}
	if !region.Shared || region.File.Inode == 0 {
		return 0, fmt.Errorf("%w: %d bytes at %#x", ErrPrivate, length, address)
	}
	start, end := pages(address, length)
	var base int64
	var unmap func() error
	switch mode {
	case CopyOnWrite:
		base, unmap, err = mapPrivate(region, start, end, raylet)
	case ReadOnly:
		base, unmap, err = mapReadOnly(start, end)
	default:
		err = fmt.Errorf("%w: %d", ErrMode, mode)
	}
	if err != nil {
		return 0, err
	}
	copied := base + address - start
	mappings.Lock()
	defer mappings.Unlock()
	mappings.byAddress[copied] = &mapping{base: base, length: end - start, mode: mode, unmap: unmap}
	return copied, nil
}

// Unmap undoes Map, given the address that it returned.
func Unmap(address int64) error {
	mappings.Lock()
	found := mappings.byAddress[address]
	delete(mappings.byAddress, address)
	mappings.Unlock()
	if found == nil {
		return fmt.Errorf("%w: %#x", ErrUnknown, address)
	}
	found.Lock()
	defer found.Unlock()
	found.length = 0
	return found.unmap()
}

func mapPrivate(region Region, start, end int64, raylet int) (int64, func() error, error) {
	file, err := openFile(region, raylet)
	if err != nil {
		return 0, nil, err
	}
	defer file.Close()
	offset := region.Offset + start - region.Start
	mapped, err := mmap.MapRegion(file, int(end-start), mmap.COPY, 0, offset)
	if err != nil {
		return 0, nil, fmt.Errorf("map %d bytes at %d of %s: %w", end-start, offset, file.Name(), err)
	}
	return mem.Address(mapped), mapped.Unmap, nil
}

// mapReadOnly duplicates the mapping: mremap with an old size of 0 does that for shared ones, without the file.
func mapReadOnly(start, end int64) (int64, func() error, error) {
	size := uintptr(end - start)
	base, _, errno := unix.Syscall6(unix.SYS_MREMAP, uintptr(start), 0, size, unix.MREMAP_MAYMOVE, 0, 0)
	if errno != 0 {
		return 0, nil, fmt.Errorf("duplicate the mapping of %d bytes at %#x: %w", size, start, errno)
	}
	unmap := func() error {
		if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, base, size, 0); errno != 0 {
			return fmt.Errorf("unmap %d bytes at %#x: %w", size, base, errno)
		}
		return nil
	}
	if err := unix.Mprotect(mem.Bytes(int64(base), end-start), unix.PROT_READ); err != nil {
		return 0, nil, errors.Join(fmt.Errorf("protect %d bytes at %#x: %w", size, base, err), unmap())
	}
	return int64(base), unmap, nil
}

// pages rounds a range to whole pages.
func pages(address, length int64) (start, end int64) {
	size := int64(os.Getpagesize())
	return address / size * size, (address + length + size - 1) / size * size
}
