package format

import (
	"bytes"
	"errors"
	"math/rand"
	"testing"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/layout"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
)

// A model in memory: the bytes of each tensor are their own, but for what a test makes overlap.
func blocksOf(memory ...[]byte) []layout.Block {
	blocks := make([]layout.Block, len(memory))
	for i, bytes := range memory {
		blocks[i] = layout.Block{Address: mem.Address(bytes), Length: int64(len(bytes))}
	}
	return blocks
}

// imageOf is the image of some blocks, those that it shares with its bases left out.
func imageOf(tb testing.TB, memory [][]byte, index string, bases ...[]byte) []byte {
	tb.Helper()
	blocks := blocksOf(memory...)
	parts := Parts{Index: []byte(index), Sums: Sums(memory)}
	shared, err := Share(blocks, parts.Sums, bases)
	if err != nil {
		tb.Fatal(err)
	}
	own := bytes.Clone(nil)
	for i, each := range memory {
		at := Range{shared[i], int64(len(each))}
		if shared[i] == 0 {
			for len(own)%alignment != 0 {
				own = append(own, 0)
			}
			at.Offset = int64(len(own))
			own = append(own, each...)
		}
		parts.Blocks = append(parts.Blocks, at)
	}
	if len(own) > 0 {
		parts.Segments = []Range{{0, int64(len(own))}}
	}
	for _, base := range bases {
		row, _, err := BaseOf(base)
		if err != nil {
			tb.Fatal(err)
		}
		parts.Bases = append(parts.Bases, row)
	}
	return append(encode(tb, parts), own...)
}

func noise(seed int64, length int) []byte {
	bytes := make([]byte, length)
	rand.New(rand.NewSource(seed)).Read(bytes)
	return bytes
}

const noIndex = `{"tensors":[]}`

func TestWhatABaseHasIsSharedAndReadFromThere(t *testing.T) {
	a, b, c := noise(1, 100_000), noise(2, 3000), noise(3, piece+77)
	base := imageOf(t, [][]byte{a, b, c}, noIndex)
	changed := bytes.Clone(b)
	changed[1234] ^= 1
	index := `{"tensors":[{"name":"c","dtype":"uint8","shape":[77],"stride":[1],"segment":0,"offset":103040,"persistent":true,"base":0},` +
		`{"name":"b","dtype":"uint8","shape":[3000],"stride":[1],"segment":0,"offset":0,"persistent":true}]}`
	child := imageOf(t, [][]byte{bytes.Clone(c), changed, bytes.Clone(a)}, index, base)
	if len(child) > minHeadSize+3000 {
		t.Fatalf("%d bytes", len(child))
	}
	r, err := Open(child, base)
	if err != nil {
		t.Fatal(err)
	}
	if _, got, _ := r.Tensor("b"); !bytes.Equal(got, changed) {
		t.Error("b, which is its own, differs")
	}
	if _, got, _ := r.Tensor("c"); !bytes.Equal(got, c[:77]) {
		t.Error("c, which is the base's, differs")
	}
	if row, err := Verify(child, base); row != -1 || err != nil {
		t.Errorf("verify: block %d, %v", row, err)
	}

	for name, bases := range map[string][][]byte{"none": nil, "itself": {child}, "two": {base, base}} {
		if _, err := Open(child, bases...); !errors.Is(err, ErrBase) {
			t.Errorf("%s: %v", name, err)
		}
	}
	base[len(base)-1] ^= 1 // of c: the head is the same
	if row, err := Verify(child, base); row != 0 || err != nil {
		t.Errorf("verify with a damaged base: block %d, %v, want 0", row, err)
	}
}

func TestTensorsThatAreApartStayApart(t *testing.T) {
	zeros := func() []byte { return make([]byte, 5000) }
	base := imageOf(t, [][]byte{zeros(), zeros()}, noIndex)
	three := [][]byte{zeros(), zeros(), zeros()}
	shared, err := Share(blocksOf(three...), Sums(three), [][]byte{base})
	if err != nil {
		t.Fatal(err)
	}
	if shared[0] == shared[1] || shared[0] == 0 || shared[1] == 0 || shared[2] != 0 {
		t.Errorf("two equal blocks of a base for three that are apart: %x", shared)
	}
}

func TestWhatOverlapsIsSharedAsAWhole(t *testing.T) {
	whole := noise(1, 10_000)
	base := imageOf(t, [][]byte{bytes.Clone(whole), noise(2, 500)}, noIndex)
	share := func(memory ...[]byte) []int64 {
		shared, err := Share(blocksOf(memory...), Sums(memory), [][]byte{base})
		if err != nil {
			t.Fatal(err)
		}
		return shared
	}
	if got := share(whole[100:200], whole, whole[9000:]); got[1] != inBase(0, 0) || got[0] != inBase(0, 100) || got[2] != inBase(0, 9000) {
		t.Errorf("views of one storage: %x", got)
	}
	longer := append(bytes.Clone(whole), noise(2, 500)...)
	if got := share(longer[:10_000], longer[9_999:]); got[0] != 0 || got[1] != 0 {
		t.Errorf("two that overlap, and no block has all of them: %x", got)
	}
}

func TestABaseWithBasesGivesWhatIsItsOwn(t *testing.T) {
	a, b := noise(1, 5000), noise(2, 6000)
	first := imageOf(t, [][]byte{a}, noIndex)
	second := imageOf(t, [][]byte{bytes.Clone(a), b}, noIndex, first)
	third := imageOf(t, [][]byte{bytes.Clone(b), bytes.Clone(a)}, noIndex, second, first)
	if len(third) != minHeadSize {
		t.Fatalf("%d bytes", len(third))
	}
	if row, err := Verify(third, second, first); row != -1 || err != nil {
		t.Errorf("verify: block %d, %v", row, err)
	}
}

func TestSharedBlocksOutsideOfTheirBase(t *testing.T) {
	a := noise(1, 5000)
	base := imageOf(t, [][]byte{a}, noIndex)
	child := imageOf(t, [][]byte{bytes.Clone(a)}, noIndex, base)
	for name, row := range map[string]Range{
		"offset":       {inBase(0, 1), 5000},
		"length":       {inBase(0, 0), 5001},
		"far":          {inBase(0, 1<<baseShift-1), 5000},
		"other base":   {inBase(1, 0), 5000},
		"empty":        {inBase(0, 0), 0},
		"negative":     {inBase(0, 0), -5000},
		"its own data": {0, 5000},
	} {
		damaged := bytes.Clone(child)
		writeTable(damaged[headerSize:], []Range{row})
		seal(damaged[:minHeadSize])
		if _, err := Open(damaged, base); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
