package format

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"
)

// piece is how many bytes of a block have a checksum of their own: a few milliseconds of work.
const piece = 16 << 20

// ErrNoSums is returned for an image of version 1, which has no checksums of its data.
var ErrNoSums = errors.New("version 1 of the format has no checksums of the data")

// CountSums returns how many checksums the blocks of a table have.
func CountSums(blocks []Range) int64 {
	var count int64
	for _, block := range blocks {
		count += pieces(block.Length)
	}
	return count
}

// pieces returns how many checksums a block has.
func pieces(length int64) int64 {
	return length/piece + min(1, length%piece)
}

// Sums returns the checksums of blocks, block by block and in each piece by piece. It works on all processors.
func Sums(blocks [][]byte) []uint64 {
	var parts [][]byte
	var total int
	for _, block := range blocks {
		total += len(block)
		for ; len(block) > 0; block = block[min(piece, len(block)):] {
			parts = append(parts, block[:min(piece, len(block))])
		}
	}
	sums := make([]uint64, len(parts))
	var next atomic.Int64
	sum := func() {
		for i := next.Add(1) - 1; i < int64(len(parts)); i = next.Add(1) - 1 {
			sums[i] = xxh3.Hash(parts[i]) // as fast as memory can be read
		}
	}
	if total < piece { // a goroutine would take longer to start
		sum()
		return sums
	}
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(sum)
	}
	group.Wait()
	return sums
}

// Verify checks a whole image, head and data, and what it shares with its bases. It returns the row of the first block
// whose bytes are not those that were written, or -1.
func Verify(image []byte, bases ...[]byte) (int, error) {
	head, err := Check(image, int64(len(image)))
	if err != nil {
		return 0, err
	}
	if head.Version == 1 {
		return 0, ErrNoSums
	}
	heads, err := Attach(head, bases)
	if err != nil {
		return 0, err
	}
	datas := make([][]byte, len(bases))
	for i, base := range bases {
		datas[i] = base[heads[i].HeadSize:]
	}
	return verify(head, image[head.HeadSize:], datas), nil
}

// Verify does what the function does for an image that was opened.
func (r *Reader) Verify() (int, error) {
	if r.head.Version == 1 {
		return 0, ErrNoSums
	}
	return verify(r.head, r.data, r.bases), nil
}

// verify compares the data of an image and of its bases with the checksums in its head.
func verify(head Head, data []byte, bases [][]byte) int {
	blocks := make([][]byte, len(head.Blocks))
	for i, block := range head.Blocks {
		in := data
		number, offset := block.Base()
		if number >= 0 {
			in = bases[number]
		}
		blocks[i] = in[offset:][:block.Length]
	}
	sums := Sums(blocks)
	at := 0
	for i, block := range head.Blocks {
		for range pieces(block.Length) {
			if sums[at] != head.Sums[at] {
				return i
			}
			at++
		}
	}
	return -1
}
