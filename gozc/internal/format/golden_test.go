package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
)

// The golden images were written by the Python packages of their versions and never change: every later version has to
// read them.
func TestGoldenImagesRead(t *testing.T) {
	for version := 1; version <= Version; version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) { readGolden(t, version, fmt.Sprint(version)) })
	}
	base, err := os.ReadFile("../../../tests/golden/v2.image")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("shared", func(t *testing.T) { readGolden(t, 2, "2-shared", base) })
}

func readGolden(t *testing.T, version int, name string, bases ...[]byte) {
	name = "../../../tests/golden/v" + name
	image, err := os.ReadFile(name + ".image")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var want struct {
		Tensors []struct {
			Name       string
			Dtype      string
			Shape      []int64
			Stride     []int64
			Segment    int64
			Offset     int64
			Persistent bool
			SHA256     string
		}
		ImageSize int64 `json:"image_size"`
		HeadSize  int64 `json:"head_size"`
		Segments  [][2]int64
		Blocks    [][2]uint64
		CRC32     uint32
		Sums      []uint64 `json:"xxh3"`
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	r, err := Open(image, bases...)
	if err != nil {
		t.Fatal(err)
	}

	head := r.Head()
	if head.Version != version || !slices.Equal(head.Sums, want.Sums) {
		t.Errorf("version %d, sums %x, want %x", head.Version, head.Sums, want.Sums)
	}
	if head.ImageSize != want.ImageSize || head.HeadSize != want.HeadSize || head.Checksum != want.CRC32 {
		t.Errorf("image_size %d, head_size %d, crc32 %d; want %d, %d, %d",
			head.ImageSize, head.HeadSize, head.Checksum, want.ImageSize, want.HeadSize, want.CRC32)
	}
	checkTable(t, "segments", head.Segments, want.Segments)
	checkTable(t, "blocks", head.Blocks, want.Blocks)

	if len(r.Tensors()) != len(want.Tensors) {
		t.Fatalf("%d tensors, want %d", len(r.Tensors()), len(want.Tensors))
	}
	for i, want := range want.Tensors {
		if got := r.Tensors()[i]; got.Name != want.Name {
			t.Errorf("tensor %d is %q, want %q", i, got.Name, want.Name)
		}
		got, bytes, ok := r.Tensor(want.Name)
		sum := sha256.Sum256(bytes)
		if !ok || got.Dtype != want.Dtype || !slices.Equal(got.Shape, want.Shape) || !slices.Equal(got.Stride, want.Stride) ||
			got.Segment != want.Segment || got.Offset != want.Offset || got.Persistent != want.Persistent ||
			hex.EncodeToString(sum[:]) != want.SHA256 {
			t.Errorf("tensor %q is %+v with SHA-256 %x, want %+v", want.Name, got, sum, want)
		}
	}

	if row, err := Verify(image, bases...); version == 1 && !errors.Is(err, ErrNoSums) || version > 1 && (row != -1 || err != nil) {
		t.Errorf("verify: block %d, %v", row, err)
	}
	if version != Version {
		return
	}
	again := make([]byte, head.HeadSize)
	if err := EncodeHead(again, head.Parts); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, image[:head.HeadSize]) {
		t.Error("the head is written differently now")
	}
}

func checkTable[T int64 | uint64](t *testing.T, name string, got []Range, want [][2]T) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d %s, want %d", len(got), name, len(want))
		return
	}
	for i, row := range got {
		if row != (Range{int64(want[i][0]), int64(want[i][1])}) {
			t.Errorf("row %d of %s is %+v, want %v", i, name, row, want[i])
		}
	}
}
