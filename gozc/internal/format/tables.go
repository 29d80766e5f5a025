package format

import (
	"fmt"
	"math"
	"sort"
)

// A Range is a row of the segment or the block table.
type Range struct {
	Offset int64 // from the start of the data; negative for a shared block: see Base
	Length int64
}

// The offset of a shared block has the sign, 15 bits for the number of the base, and 48 for the offset in its data.
const (
	baseShift = 48
	maxBases  = 1 << (63 - baseShift)
)

// Base returns the number of the base in which a shared block lies, and its offset from the start of the base's data;
// -1 and the offset for one that is the image's own.
func (r Range) Base() (number int, offset int64) {
	if r.Offset >= 0 {
		return -1, r.Offset
	}
	bits := uint64(r.Offset) &^ (1 << 63)
	return int(bits >> baseShift), int64(bits & (1<<baseShift - 1))
}

// inBase returns the offset of a block that lies in a base.
func inBase(number int, offset int64) int64 {
	return int64(1<<63 | uint64(number)<<baseShift | uint64(offset))
}

// readTable decodes a table; bytes is a whole number of rows.
func readTable(bytes []byte) []Range {
	table := make([]Range, len(bytes)/rowSize)
	for i := range table {
		row := bytes[i*rowSize:]
		table[i] = Range{int64(order.Uint64(row)), int64(order.Uint64(row[8:]))} // too large a number turns negative
	}
	return table
}

func writeTable(bytes []byte, table []Range) {
	for i, row := range table {
		order.PutUint64(bytes[i*rowSize:], uint64(row.Offset))
		order.PutUint64(bytes[i*rowSize+8:], uint64(row.Length))
	}
}

func readSums(bytes []byte, count int64) []uint64 {
	sums := make([]uint64, count)
	for i := range sums {
		sums[i] = order.Uint64(bytes[sumSize*i:])
	}
	return sums
}

// checkSums checks that there are as many checksums as blocks have pieces.
func checkSums(count int64, blocks []Range) error {
	if expected := CountSums(blocks); count != expected {
		return fmt.Errorf("checksum_count is %d, expected %d for these blocks", count, expected)
	}
	return nil
}

// dataSize returns where the data ends. The error does not say whose fault it is: that depends on who holds the
// table.
func dataSize(segments []Range) (int64, error) {
	var end int64
	for i, segment := range segments {
		if segment.Length < 1 {
			return 0, fmt.Errorf("segment %d has length %d, expected 1 at least", i, segment.Length)
		}
		if expected := align(end); segment.Offset != expected {
			return 0, fmt.Errorf("segment %d has offset %d, expected %d", i, segment.Offset, expected)
		}
		if segment.Length > math.MaxInt64-alignment-segment.Offset {
			return 0, fmt.Errorf("segment %d at offset %d has length %d, expected an end below 2^63",
				i, segment.Offset, segment.Length)
		}
		end = segment.Offset + segment.Length
	}
	return end, nil
}

// checkBlocks checks that every block lies in a segment, or in a base; the segments have been checked.
func checkBlocks(blocks, segments []Range, bases []Base) error {
	for i, block := range blocks {
		if block.Length == 0 && block.Offset == 0 {
			continue
		}
		if number, offset := block.Base(); number >= 0 {
			if number >= len(bases) {
				return fmt.Errorf("block %d lies in base %d, expected one of %d", i, number, len(bases))
			}
			if size := bases[number].ImageSize; block.Length < 1 || block.Length > size-offset {
				return fmt.Errorf("block %d has offset %d and length %d in base %d, expected it inside of its %d bytes",
					i, offset, block.Length, number, size)
			}
			continue
		}
		if block.Length < 1 {
			return fmt.Errorf("block %d has offset %d and length %d, expected a positive length or both 0",
				i, block.Offset, block.Length)
		}
		// the last segment that does not start behind the block
		at := sort.Search(len(segments), func(i int) bool { return segments[i].Offset > block.Offset }) - 1
		if at < 0 {
			return fmt.Errorf("block %d has offset %d and length %d, but there are no segments", i, block.Offset, block.Length)
		}
		segment := segments[at]
		inside := block.Offset - segment.Offset
		if inside > segment.Length || block.Length > segment.Length-inside {
			return fmt.Errorf("block %d has offset %d and length %d, expected it inside of segment %d (offset %d, length %d)",
				i, block.Offset, block.Length, at, segment.Offset, segment.Length)
		}
	}
	return nil
}
