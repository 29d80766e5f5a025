package image

import (
	"fmt"
	"math"
	"sort"
)

// A Range is a row of the segment or the block table.
type Range struct {
	Offset int64 // from the start of the data
	Length int64
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

// checkBlocks checks that every block lies in a segment; the segments have been checked.
func checkBlocks(blocks, segments []Range) error {
	for i, block := range blocks {
		if block.Length == 0 && block.Offset == 0 {
			continue
		}
		if block.Length < 1 || block.Offset < 0 {
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
