package layout

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// A run is memory that blocks cover without a gap, each block sharing at least one byte with another one.
type run struct {
	address int64
	length  int64
	offset  int64 // in the data
	first   int   // row at which it appears first
	blocks  []int // all its rows
}

// findRuns merges overlapping blocks, in order of first appearance. Blocks that only touch stay apart: they are
// neighbours by chance, and one of them may be freed, or of another kind, the next time.
func findRuns(blocks []Block) ([]run, error) {
	rows := make([]int, 0, len(blocks))
	for row, block := range blocks {
		if block.Address < 0 || block.Length < 0 || block.Address > math.MaxInt64-block.Length {
			return nil, fmt.Errorf("%w: block %d is %d bytes at address %d", ErrBlock, row, block.Length, block.Address)
		}
		if block.Length == 0 {
			continue
		}
		if block.Address == 0 {
			return nil, fmt.Errorf("%w: block %d is %d bytes at the null address", ErrBlock, row, block.Length)
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b int) int { return cmp.Compare(blocks[a].Address, blocks[b].Address) })

	var runs []run
	from := 0 // the row at which the last run begins
	for i, row := range rows {
		block := blocks[row]
		if n := len(runs); n > 0 && block.Address < runs[n-1].address+runs[n-1].length {
			last := &runs[n-1]
			last.length = max(last.length, block.Address+block.Length-last.address)
			last.first = min(last.first, row)
			last.blocks = rows[from : i+1]
			continue
		}
		from = i
		runs = append(runs, run{address: block.Address, length: block.Length, first: row, blocks: rows[i : i+1]})
	}
	slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.first, b.first) })
	return runs, nil
}
