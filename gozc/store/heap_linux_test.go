package store

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/image"
)

const golden = "../../tests/golden/"

// A part is a block of a made-up store: so many bytes of Ray's own, and what comes after them.
type part struct {
	before int
	data   []byte
	free   bool
}

// heapOf writes a store's file, as dlmalloc and Ray lay it out: see any live one.
func heapOf(t *testing.T, parts ...part) *heap {
	t.Helper()
	memory := make([]byte, firstBlock)
	word := func(value uint64) {
		memory = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(memory, 0), value)
	}
	before := uint64(beforeUsed)
	for _, each := range parts {
		size := wordsSize + each.before + len(each.data)
		size += -size & (alignment - 1)
		bits := before
		before = 0
		if !each.free {
			bits |= used
			before = beforeUsed
		}
		word(uint64(size) | bits)
		memory = append(append(memory, make([]byte, each.before)...), each.data...)
		memory = append(memory, make([]byte, size-wordsSize-each.before-len(each.data))...)
	}
	word(4096 | before) // free to the end
	memory = append(memory, make([]byte, 4096-wordsSize)...)
	word(80)
	memory = append(memory, make([]byte, 80-wordsSize)...)
	path := filepath.Join(t.TempDir(), "plasma")
	if err := os.WriteFile(path, memory, 0o600); err != nil {
		t.Fatal(err)
	}
	about, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return &heap{path: path, about: about}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	bytes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

func change(t *testing.T, path string, at int64, bytes ...byte) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(bytes, at); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyImagesThatAreInUseAreFound(t *testing.T) {
	v1, v2, shared := readFile(t, golden+"v1.image"), readFile(t, golden+"v2.image"), readFile(t, golden+"v2-shared.image")
	damaged := slices.Clone(v2)
	damaged[1000] ^= 1
	h := heapOf(t,
		part{before: 320, data: v2},
		part{before: 320, data: v1, free: true}, // was dropped
		part{before: 64 * 1000, data: shared},   // an object with much of Ray's own in front
		part{before: 320, data: damaged},
		part{before: 320, data: v2[:5000]}, // its block is shorter than it says
		part{before: 312, data: v1},        // not where an image lies
		part{data: []byte("some other object")},
		part{data: []byte(magic)},
		part{before: 64, data: v1},
	)
	if err := h.read(7); err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range h.entries {
		found = append(found, entry.Fingerprint)
		if entry.Raylet != 7 {
			t.Errorf("raylet %d", entry.Raylet)
		}
	}
	var want []string
	for _, name := range []string{"v2", "v2-shared", "v1"} {
		file, err := image.Open(golden + name + ".image")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		want = append(want, file.Fingerprint())
	}
	if !slices.Equal(found, want) {
		t.Fatalf("%v, want %v", found, want)
	}
	if entry := h.entries[1]; entry.Class != "dict" || !slices.Equal(entry.Models, []string{"model", "list"}) || entry.Size != int64(len(shared)) {
		t.Errorf("%+v", entry)
	}

	got, err := h.entries[1].Open() // with its base, from the same store
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.Open(golden + "v2-shared.image")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for i, tensor := range file.Tensors() {
		if string(tensor.Bytes()) != string(got.Tensors()[i].Bytes()) {
			t.Errorf("%q has other bytes", tensor.Name)
		}
	}
	if err := errors.Join(got.Verify(), got.Check(), got.Close()); err != nil {
		t.Error(err)
	}
}

func TestAnImageWhoseBaseIsNotInTheStoreIsRefused(t *testing.T) {
	h := heapOf(t, part{before: 64, data: readFile(t, golden+"v2-shared.image")})
	if err := h.read(1); err != nil {
		t.Fatal(err)
	}
	if _, err := h.entries[0].Open(); !errors.Is(err, image.ErrBase) {
		t.Error(err)
	}
}

func TestCheckSeesThatTheMemoryWasGivenBack(t *testing.T) {
	v2 := readFile(t, golden+"v2.image")
	for name, test := range map[string]struct {
		part  int // whose block is changed
		at    int64
		bytes []byte
	}{
		"freed":                   {1, 8, []byte{byte(beforeUsed)}}, // its low byte: the length is a multiple of 64
		"given to another object": {1, wordsSize + 3, []byte{1}},
		"given to another image":  {1, wordsSize + 320 + 80, []byte{1, 2, 3, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			h := heapOf(t, part{before: 64, data: []byte("first")}, part{before: 320, data: v2})
			if err := h.read(1); err != nil {
				t.Fatal(err)
			}
			got, err := h.entries[0].Open()
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			word := readFile(t, h.path)[h.entries[0].block.at+8]
			if name == "freed" {
				test.bytes[0] = word &^ used
				// and what follows says so, too
				next := h.entries[0].block.at + h.entries[0].block.size + 8
				change(t, h.path, next, readFile(t, h.path)[next]&^beforeUsed)
			}
			change(t, h.path, h.entries[0].block.at+test.at, test.bytes...)
			if err := got.Check(); !errors.Is(err, ErrGone) {
				t.Errorf("%v, want an ErrGone", err)
			}
			if _, err := h.entries[0].Open(); !errors.Is(err, ErrGone) {
				t.Errorf("%v, want an ErrGone", err)
			}
		})
	}
	h := heapOf(t, part{before: 320, data: v2})
	if err := h.read(1); err != nil {
		t.Fatal(err)
	}
	got, err := h.entries[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if err := os.Rename(heapOf(t, part{before: 320, data: v2}).path, h.path); err != nil {
		t.Fatal(err)
	}
	if err := got.Check(); !errors.Is(err, ErrGone) || got.Verify() != nil {
		t.Errorf("%v, want an ErrGone: it is another store's file", err)
	}
}

func TestAFileThatIsNoHeapIsRefused(t *testing.T) {
	h := heapOf(t, part{before: 320, data: readFile(t, golden+"v2.image")}, part{data: make([]byte, 200)})
	at := int64(firstBlock) + 8
	words := readFile(t, h.path)[at:][:8]
	for name, bytes := range map[string][]byte{
		"zero":         make([]byte, 8),
		"too short":    {3, 0, 0, 0, 0, 0, 0, 0},
		"too long":     {3, 0, 0, 0, 1, 0, 0, 0},
		"negative":     {3, 0, 0, 0, 0, 0, 0, 0x80},
		"wrong bits":   {words[0] &^ beforeUsed},
		"off its step": {words[0] + 64},
	} {
		t.Run(name, func(t *testing.T) {
			change(t, h.path, at, bytes...)
			if err := h.read(1); !errors.Is(err, ErrLayout) || len(h.entries) > 0 {
				t.Errorf("%v, want an ErrLayout", err)
			}
			change(t, h.path, at, words...)
		})
	}
	if err := h.read(1); err != nil || len(h.entries) != 1 {
		t.Errorf("%v, %d images", err, len(h.entries))
	}
	empty := heapOf(t)
	if err := os.Truncate(empty.path, 30); err != nil {
		t.Fatal(err)
	}
	if err := empty.read(1); !errors.Is(err, ErrLayout) {
		t.Errorf("%v, want an ErrLayout", err)
	}
}

func TestFindGoesByClassOrTheBeginningOfAFingerprint(t *testing.T) {
	entries := []*Entry{
		{Fingerprint: "aa11111111", Class: "Encoder"}, {Fingerprint: "ab22222222", Class: "Encoder"}, {Fingerprint: "cc33333333", Class: "dict"},
		{Fingerprint: "cc33333333", Class: "dict"}, // of another raylet
	}
	for what, want := range map[string]*Entry{"aa": entries[0], "ab2": entries[1], "dict": entries[2], "cc": entries[2]} {
		if got, err := find(entries, what); got != want || err != nil {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	for _, what := range []string{"", "a", "Encoder", "Decoder", "cc4"} {
		if got, err := find(entries, what); got != nil || !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v, %v", what, got, err)
		}
	}
	if _, err := find(entries, "Encoder"); !strings.Contains(err.Error(), "aa111111, ab222222") {
		t.Error(err)
	}
}
