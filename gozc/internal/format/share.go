package format

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/layout"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// Share finds the blocks whose bytes lie in other images already. It returns an offset for each block: that of a block
// in a base (see Range.Base), or 0.
//
// sums are the checksums of the blocks, see Sums. What has the same checksums is compared byte by byte.
//
// What overlaps in memory is shared as a whole or not at all, and no byte of a base is given out twice: two tensors
// that are apart would be one.
func Share(blocks []layout.Block, sums []uint64, bases [][]byte) ([]int64, error) {
	if len(bases) > maxBases {
		return nil, fmt.Errorf("%w: %d bases, expected %d at most", ErrInput, len(bases), maxBases)
	}
	candidates := make(map[uint64][]*candidate)
	for number, image := range bases {
		if err := addCandidates(candidates, number, image); err != nil {
			return nil, err
		}
	}
	runs, err := layout.Runs(blocks)
	if err != nil {
		return nil, err
	}
	first := make([]int64, len(blocks)) // of each block's checksums
	var count int64
	for i, block := range blocks {
		first[i] = count
		count += pieces(block.Length)
	}
	if count != int64(len(sums)) {
		return nil, fmt.Errorf("%w: %d checksums for blocks that have %d", ErrInput, len(sums), count)
	}

	var pairs []pair
	for _, run := range runs {
		for _, row := range run.Blocks {
			block := blocks[row]
			if block.Address != run.Address || block.Length != run.Length {
				continue
			}
			own := sums[first[row]:][:pieces(block.Length)]
			for _, each := range candidates[own[0]] {
				if !*each.used && int64(len(each.bytes)) == block.Length && slices.Equal(each.sums, own) {
					*each.used = true
					pairs = append(pairs, pair{run, each})
					break
				}
			}
			break // further blocks of the whole run have the same bytes
		}
	}
	equal := compare(pairs)
	offsets := make([]int64, len(blocks))
	for i, pair := range pairs {
		if !equal[i] {
			continue
		}
		for _, row := range pair.run.Blocks {
			offsets[row] = inBase(pair.number, pair.offset+blocks[row].Address-pair.run.Address)
		}
	}
	return offsets, nil
}

// A candidate is a block of a base.
type candidate struct {
	number int   // of the base
	offset int64 // in its data
	bytes  []byte
	sums   []uint64
	used   *bool // whether any byte of the memory that it is a part of has been given out
}

type pair struct {
	run layout.Run
	*candidate
}

// addCandidates adds the blocks of a base that lie in the base itself, by their first checksum.
func addCandidates(candidates map[uint64][]*candidate, number int, image []byte) error {
	head, err := Check(image, int64(len(image)))
	if err != nil {
		return fmt.Errorf("base %d: %w", number, err)
	}
	if head.Version == 1 {
		return fmt.Errorf("base %d: %w", number, ErrNoSums)
	}
	data := image[head.HeadSize:head.ImageSize]
	if len(data) == 0 {
		return nil
	}
	start := mem.Address(data)
	own := make([]layout.Block, len(head.Blocks)) // those that are shared are empty here
	for i, block := range head.Blocks {
		if in, offset := block.Base(); in < 0 && block.Length > 0 {
			own[i] = layout.Block{Address: start + offset, Length: block.Length}
		}
	}
	runs, err := layout.Runs(own)
	if err != nil {
		return err
	}
	used := make([]*bool, len(own))
	for _, run := range runs {
		flag := new(bool)
		for _, row := range run.Blocks {
			used[row] = flag
		}
	}
	at := int64(0)
	for i, block := range head.Blocks {
		sums := head.Sums[at:][:pieces(block.Length)]
		at += pieces(block.Length)
		if own[i].Length > 0 {
			found := &candidate{number, block.Offset, data[block.Offset:][:block.Length], sums, used[i]}
			candidates[sums[0]] = append(candidates[sums[0]], found)
		}
	}
	return nil
}

// compare compares the bytes of pairs, on all processors.
func compare(pairs []pair) []bool {
	equal := make([]bool, len(pairs))
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(pairs)) {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(pairs)); i = next.Add(1) - 1 {
				run := pairs[i].run
				equal[i] = bytes.Equal(mem.Bytes(run.Address, run.Length), pairs[i].bytes)
			}
		})
	}
	group.Wait()
	return equal
}
