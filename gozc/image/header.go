// Package image encodes, checks and reads images of models. docs/format.md describes the format to the byte.
//
// Nothing here trusts the bytes that it reads: no number is used before it has been checked against the size of
// what is at hand, and only the tables of a head whose sizes add up are allocated.
package image

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// Version is the version of the format that this package writes. It reads this one and those before it.
const Version = 2

const (
	headerSize  = 128
	minHeadSize = 2048
	alignment   = 64
	rowSize     = 16 // of both tables
	sumSize     = 8

	nativeOrder  = 0x01020304
	foreignOrder = 0x04030201
)

// The line breaks and the byte above 127 catch transfers as text, as in PNG.
const magic = "\x89RZC\r\n\x1a\n"

// Offsets of the header's fields.
const (
	atMagic          = 0
	atVersion        = 8
	atOrder          = 12
	atImageSize      = 16
	atHeadSize       = 24
	atSegmentCount   = 32
	atBlockCount     = 40
	atSkeletonOffset = 48
	atSkeletonSize   = 56
	atIndexOffset    = 64
	atIndexSize      = 72
	atChecksum       = 80
	atReserved       = 84
	atSumsOffset     = 88 // from version 2 on
	atSumsCount      = 96
	atReservedAgain  = 104
)

var order = binary.LittleEndian

// A Head is all of an image before its data. Skeleton and Index are parts of the bytes that it was read from.
type Head struct {
	Version   int
	ImageSize int64
	HeadSize  int64
	Checksum  uint32
	Segments  []Range // from the start of the data
	Blocks    []Range // from the start of the data
	Skeleton  []byte
	Index     []byte
	Sums      []uint64 // XXH3 of the data, see Sums; none in version 1
}

// HeadSize returns the length in bytes of the head of an image with so many segments and blocks, a skeleton and
// an index of so many bytes, and so many checksums of its data.
func HeadSize(segments, blocks int, skeleton, index, sums int64) (int64, error) {
	if segments < 0 || blocks < 0 || skeleton < 0 || index < 0 || sums < 0 {
		return 0, fmt.Errorf("%w: %d segments, %d blocks, a skeleton of %d and an index of %d bytes, %d checksums; none can be negative",
			ErrInput, segments, blocks, skeleton, index, sums)
	}
	// Each part is far below an int64's range, so that their sum fits.
	const limit = math.MaxInt64 / 8
	if int64(segments) > limit/rowSize || int64(blocks) > limit/rowSize || skeleton > limit || index > limit || sums > limit/rowSize {
		return 0, fmt.Errorf("%w: %d segments, %d blocks, a skeleton of %d and an index of %d bytes and %d checksums are too much for a head",
			ErrInput, segments, blocks, skeleton, index, sums)
	}
	parts := place(int64(segments), int64(blocks), skeleton, index, sums)
	return parts.end, nil
}

// parts says where the parts of a head lie.
type parts struct {
	blocks, skeleton, index, sums, end int64
}

func place(segments, blocks, skeleton, index, sums int64) parts {
	var p parts
	p.blocks = headerSize + rowSize*segments
	p.skeleton = align(p.blocks + rowSize*blocks)
	p.index = align(p.skeleton + skeleton)
	p.sums = align(p.index + index)
	p.end = max(align(p.sums+sumSize*sums), minHeadSize)
	return p
}

// align rounds n up to a multiple of 64.
func align(n int64) int64 {
	return (n + alignment - 1) / alignment * alignment
}

// checksum is the CRC-32 of the head, with the field that holds it taken as zero.
func checksum(head []byte) uint32 {
	sum := crc32.ChecksumIEEE(head[:atChecksum])
	sum = crc32.Update(sum, crc32.IEEETable, make([]byte, atReserved-atChecksum))
	return crc32.Update(sum, crc32.IEEETable, head[atReserved:])
}
