package shm

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// Locate returns the mapping of this process in which the length bytes at address lie.
func Locate(address, length int64) (Region, error) {
	if address <= 0 || length <= 0 || address > math.MaxInt64-length {
		return Region{}, fmt.Errorf("%w: %d bytes at %#x", ErrPrivate, length, address)
	}
	region, err := queryMaps(address)
	if err != nil {
		region, err = parseMaps(address)
	}
	if err != nil {
		return Region{}, err
	}
	if address < region.Start || length > region.End-address {
		return Region{}, fmt.Errorf("%w: no mapping holds all of %d bytes at %#x", ErrPrivate, length, address)
	}
	return region, nil
}

const mapsPath = "/proc/self/maps"

// PROCMAP_QUERY of linux/fs.h: _IOWR('f', 17, struct procmap_query). Linux has it from 6.11 on.
const (
	procmapQuery     = 3<<30 | procmapQuerySize<<16 | 'f'<<8 | 17
	procmapQuerySize = 104
	procmapShared    = 8
)

// queryMaps asks for the one mapping that holds address; the file lists thousands in a process that has loaded
// torch.
func queryMaps(address int64) (Region, error) {
	maps, err := openPath(mapsPath, unix.O_RDONLY)
	if err != nil {
		return Region{}, err
	}
	defer unix.Close(maps)
	// struct procmap_query, all fields u64 but for the device: size, query_flags, query_addr, vma_start,
	// vma_end, vma_flags, vma_page_size, vma_offset, inode, u32 dev_major, u32 dev_minor, and names that are
	// not asked for.
	query := make([]byte, procmapQuerySize)
	native := binary.NativeEndian
	native.PutUint64(query, procmapQuerySize)
	native.PutUint64(query[16:], uint64(address))

	var pin runtime.Pinner // the system writes to it
	pin.Pin(&query[0])
	defer pin.Unpin()
	if err := ioctl(maps, procmapQuery, uintptr(mem.Address(query))); err != nil {
		return Region{}, err
	}
	return Region{
		Start:  int64(native.Uint64(query[24:])),
		End:    int64(native.Uint64(query[32:])),
		Offset: int64(native.Uint64(query[56:])),
		File: File{
			Device: unix.Mkdev(native.Uint32(query[72:]), native.Uint32(query[76:])),
			Inode:  native.Uint64(query[64:]),
		},
		Shared: native.Uint64(query[40:])&procmapShared != 0,
	}, nil
}

// parseMaps reads the list of mappings; it returns an empty region if none holds address.
func parseMaps(address int64) (Region, error) {
	text, err := readAll(mapsPath)
	if err != nil {
		return Region{}, err
	}
	for line := range strings.Lines(string(text)) {
		region, err := parseLine(line)
		if err != nil {
			return Region{}, fmt.Errorf("%s: %w", mapsPath, err)
		}
		if address >= region.Start && address < region.End {
			return region, nil
		}
	}
	return Region{}, nil
}

// parseLine reads a line like "7f0000000000-7f0000001000 rw-s 00001000 00:1a 1234   /dev/shm/plasma (deleted)".
func parseLine(line string) (Region, error) {
	fields := strings.Fields(line)
	if len(fields) < 5 || len(fields[1]) != 4 {
		return Region{}, fmt.Errorf("unexpected line %q", line)
	}
	from, to, _ := strings.Cut(fields[0], "-")
	major, minor, _ := strings.Cut(fields[3], ":")
	var err error
	number := func(text string, base, bits int) uint64 {
		n, e := strconv.ParseUint(text, base, bits)
		if e != nil {
			err = fmt.Errorf("unexpected line %q: %w", line, e)
		}
		return n
	}
	return Region{
		// 64 bits, for [vsyscall] lies at the very top; its addresses turn negative
		Start:  int64(number(from, 16, 64)),
		End:    int64(number(to, 16, 64)),
		Offset: int64(number(fields[2], 16, 64)),
		File: File{
			Device: unix.Mkdev(uint32(number(major, 16, 32)), uint32(number(minor, 16, 32))),
			Inode:  number(fields[4], 10, 64),
		},
		Shared: fields[1][3] == 's',
	}, err
}
