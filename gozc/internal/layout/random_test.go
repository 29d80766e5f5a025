package layout

import (
	"bytes"
	"errors"
	"math/rand"
	"runtime"
	"testing"
	"time"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// materialise writes the data of an image as Ray would: direct segments from their addresses, the packed one
// packed.
func materialise(t *testing.T, blocks []Block, plan Layout) []byte {
	t.Helper()
	var end int64
	if n := len(plan.Segments); n > 0 {
		end = plan.Segments[n-1].Offset + plan.Segments[n-1].Length
	}
	data := bytes.Repeat([]byte{0xAA}, int(end))
	for _, segment := range plan.Segments {
		dst := data[segment.Offset : segment.Offset+segment.Length]
		if segment.Address != 0 {
			copy(dst, mem.Bytes(segment.Address, segment.Length))
		} else if err := Pack(blocks, plan.Offsets, segment.Offset, dst); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

func TestRandomBlocksReadBackEqualAndStillAlias(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))

	memory := make([]byte, 8*Coalesce)
	random.Read(memory)
	var pin runtime.Pinner
	pin.Pin(&memory[0])
	defer pin.Unpin()
	base := mem.Address(memory)

	for round := range 300 {
		blocks := make([]Block, random.Intn(40))
		for i := range blocks {
			longest := []int{0, 1, 100, 3000, 2 * Coalesce}[random.Intn(5)]
			length := random.Intn(longest + 1)
			blocks[i] = Block{base + int64(random.Intn(len(memory)-length)), int64(length)}
		}
		plan, err := Plan(blocks)
		if err != nil {
			t.Fatal(err)
		}
		checkSegments(t, plan)
		data := materialise(t, blocks, plan)
		for i, block := range blocks {
			stored := data[plan.Offsets[i] : plan.Offsets[i]+block.Length]
			if !bytes.Equal(stored, mem.Bytes(block.Address, block.Length)) {
				t.Fatalf("round %d: block %d %+v at %d reads back differently", round, i, block, plan.Offsets[i])
			}
			for j, other := range blocks[:i] {
				if block.Length == 0 || other.Length == 0 {
					continue
				}
				apart := block.Address - other.Address
				overlap := apart < other.Length && -apart < block.Length
				placed := plan.Offsets[i] - plan.Offsets[j]
				if overlap && placed != apart {
					t.Fatalf("round %d: blocks %d and %d overlap, but lie %d apart instead of %d", round, j, i, placed, apart)
				}
				if !overlap && placed < other.Length && -placed < block.Length {
					t.Fatalf("round %d: blocks %d and %d do not overlap, but do in the data", round, j, i)
				}
			}
		}
	}
}

func checkSegments(t *testing.T, plan Layout) {
	t.Helper()
	var end int64
	for i, segment := range plan.Segments {
		if segment.Length < 1 || segment.Offset != (end+63)/64*64 {
			t.Fatalf("segment %d %+v does not follow %d", i, segment, end)
		}
		if segment.Address == 0 && (i != len(plan.Segments)-1 || segment.Length < MinPacked) {
			t.Fatalf("packed segment %d of %d is %+v", i, len(plan.Segments), segment)
		}
		if segment.Address != 0 && segment.Length < Coalesce {
			t.Fatalf("segment %d %+v is too small to be one", i, segment)
		}
		end = segment.Offset + segment.Length
	}
}

func TestPackWritesZerosBetweenBlocks(t *testing.T) {
	memory := bytes.Repeat([]byte{7}, 10)
	var pin runtime.Pinner
	pin.Pin(&memory[0])
	defer pin.Unpin()

	dst := bytes.Repeat([]byte{0xFF}, 200)
	blocks := []Block{{mem.Address(memory), 10}, {0, 0}, {mem.Address(memory), 3}, {mem.Address(memory), 5}}
	if err := Pack(blocks, []int64{64, 0, 0, 128}, 64, dst); err != nil { // the third lies before the packed segment
		t.Fatal(err)
	}
	want := make([]byte, 200)
	copy(want, memory)
	copy(want[64:], memory[:5])
	if !bytes.Equal(dst, want) {
		t.Fatalf("packed %v", dst)
	}
}

func TestPackStaysInItsSegment(t *testing.T) {
	for name, test := range map[string]struct {
		block  Block
		offset int64
	}{
		"past the end":     {Block{4096, 65}, 64},
		"far past the end": {Block{4096, 1}, 1 << 62},
		"negative length":  {Block{4096, -1}, 64},
		"null address":     {Block{0, 1}, 64},
	} {
		if err := Pack([]Block{test.block}, []int64{test.offset}, 64, make([]byte, 64)); !errors.Is(err, ErrBlock) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Pack([]Block{{4096, 1}}, nil, 0, make([]byte, 64)); !errors.Is(err, ErrBlock) {
		t.Errorf("blocks without offsets: %v", err)
	}
}
