package layout

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// A Run is memory that blocks cover without a gap, each block sharing at least one byte with another one.
type Run struct {
	Address int64
	Length  int64
	Blocks  []int // all its rows
	offset  int64 // in the data
	first   int   // row at which it appears first
}

// Runs merges overlapping blocks, in order of first appearance. Blocks that only touch stay apart: they are
// neighbours by chance, and one of them may be freed, or of another kind, the next time.
func Runs(blocks []Block) ([]Run, error) {
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

	var runs []Run
	from := 0 // the row at which the last run begins
	for i, row := range rows {
		block := blocks[row]
		if n := len(runs); n > 0 && block.Address < runs[n-1].Address+runs[n-1].Length {
			last := &runs[n-1]
			last.Length = max(last.Length, block.Address+block.Length-last.Address)
			last.first = min(last.first, row)
			last.Blocks = rows[from : i+1]
			continue
		}
		from = i
		runs = append(runs, Run{Address: block.Address, Length: block.Length, first: row, Blocks: rows[i : i+1]})
	}
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Compare(a.first, b.first) })
	return runs, nil
}
