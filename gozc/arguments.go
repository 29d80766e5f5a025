package gozc

import (
	"fmt"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/layout"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// maxRows bounds the rows of a table: a reference in a skeleton has 31 bits for one.
const maxRows = 1 << 31

// maxAddress is more than any system gives a process, and leaves room to round up.
const maxAddress = 1 << 62

// viewBytes returns the caller's length bytes at address. what names them in errors.
func viewBytes(what string, address, length int64) ([]byte, error) {
	if address < 0 || length < 0 || address == 0 && length > 0 || length > maxAddress-address {
		return nil, fmt.Errorf("%w: %s of %d bytes at address %d", errArgument, what, length, address)
	}
	return mem.Bytes(address, length), nil
}

// viewRows returns the caller's table of int64 at address, row after row.
func viewRows(what string, address, rows, columns int64) ([]int64, error) {
	if address < 0 || rows < 0 || rows > maxRows || address == 0 && rows > 0 || 8*rows*columns > maxAddress-address {
		return nil, fmt.Errorf("%w: %s of %d rows at address %d", errArgument, what, rows, address)
	}
	if address%8 != 0 && rows > 0 {
		return nil, fmt.Errorf("%w: %s at address %d, expected a multiple of 8", errArgument, what, address)
	}
	return mem.Int64s(address, rows*columns), nil
}

func viewBlocks(address, count int64) ([]layout.Block, error) {
	rows, err := viewRows("blocks", address, count, 2)
	if err != nil {
		return nil, err
	}
	blocks := make([]layout.Block, count)
	for i := range blocks {
		blocks[i] = layout.Block{Address: rows[2*i], Length: rows[2*i+1]}
	}
	return blocks, nil
}

// viewSegments reads the rows of address, offset and length that Plan has written.
func viewSegments(address, count int64) ([]format.Range, error) {
	rows, err := viewRows("segments", address, count, 3)
	if err != nil {
		return nil, err
	}
	segments := make([]format.Range, count)
	for i := range segments {
		segments[i] = format.Range{Offset: rows[3*i+1], Length: rows[3*i+2]}
	}
	return segments, nil
}

// placeBlocks makes the block table: where the blocks lie in the data and how long they are.
func placeBlocks(blocks []layout.Block, offsets []int64) []format.Range {
	table := make([]format.Range, len(blocks))
	for i, block := range blocks {
		table[i] = format.Range{Offset: offsets[i], Length: block.Length}
	}
	return table
}

func viewSums(address, count int64) ([]uint64, error) {
	rows, err := viewRows("sums", address, count, 1)
	if err != nil {
		return nil, err
	}
	sums := make([]uint64, len(rows))
	for i, sum := range rows {
		sums[i] = uint64(sum)
	}
	return sums, nil
}

// viewImages returns the caller's images, whose addresses and lengths are the rows at address.
func viewImages(address, count int64) ([][]byte, error) {
	rows, err := viewRows("bases", address, count, 2)
	if err != nil {
		return nil, err
	}
	images := make([][]byte, count)
	for i := range images {
		if images[i], err = viewBytes("base", rows[2*i], rows[2*i+1]); err != nil {
			return nil, err
		}
	}
	return images, nil
}
