// Package format encodes, checks and reads images of models. docs/format.md describes the format to the byte.
//
// Nothing here trusts the bytes that it reads: no number is used before it has been checked against the size of
// what is at hand, and only the tables of a head whose sizes add up are allocated.
package format

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
	baseSize    = 24

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
	atSumsOffset     = 88 // this and what follows from version 2 on
	atSumsCount      = 96
	atAboutOffset    = 104
	atAboutSize      = 112
	atBaseCount      = 120
)

var order = binary.LittleEndian

// Parts are what a head is made of.
type Parts struct {
	Segments []Range // from the start of the data
	Blocks   []Range // from the start of the data, or shared: see Range.Base
	Skeleton []byte
	Index    []byte
	Sums     []uint64 // XXH3 of the data, see Sums; none in version 1
	About    []byte   // a JSON text; none in version 1
	Bases    []Base   // in which shared blocks lie
}

// A Head is all of an image before its data. Skeleton, Index and About are parts of the bytes that it was read from.
type Head struct {
	Parts
	Version   int
	ImageSize int64
	HeadSize  int64
	Checksum  uint32
}

// Counts are the sizes that the size of a head follows from: numbers of rows, and lengths in bytes.
type Counts struct {
	Segments, Blocks, Skeleton, Index, Sums, About, Bases int64
}

// Counts returns how many there are of each part.
func (p *Parts) Counts() Counts {
	return Counts{
		int64(len(p.Segments)), int64(len(p.Blocks)), int64(len(p.Skeleton)), int64(len(p.Index)),
		int64(len(p.Sums)), int64(len(p.About)), int64(len(p.Bases)),
	}
}

// HeadSize returns the length in bytes of a head.
func HeadSize(counts Counts) (int64, error) {
	// Each part is far below an int64's range, so that their sum fits.
	const limit = math.MaxInt64 / 8
	for _, part := range [][2]int64{
		{counts.Segments, rowSize}, {counts.Blocks, rowSize}, {counts.Skeleton, 1}, {counts.Index, 1},
		{counts.Sums, sumSize}, {counts.About, 1}, {counts.Bases, baseSize},
	} {
		if part[0] < 0 || part[0] > limit/part[1] {
			return 0, fmt.Errorf("%w: a head of %+v; none can be negative, or too much for a head", ErrInput, counts)
		}
	}
	return place(counts).end, nil
}

// places says where the parts of a head lie.
type places struct {
	blocks, skeleton, index, sums, about, bases, end int64
}

func place(counts Counts) places {
	var p places
	p.blocks = headerSize + rowSize*counts.Segments
	p.skeleton = align(p.blocks + rowSize*counts.Blocks)
	p.index = align(p.skeleton + counts.Skeleton)
	p.sums = align(p.index + counts.Index)
	p.about = align(p.sums + sumSize*counts.Sums)
	p.bases = align(p.about + counts.About)
	p.end = max(align(p.bases+baseSize*counts.Bases), minHeadSize)
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
