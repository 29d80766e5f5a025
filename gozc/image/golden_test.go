package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// The golden image was written by the Python package of version 1 and never changes: every later version has to
// read it.
func TestGoldenImageReads(t *testing.T) {
	const folder = "../../tests/golden/"
	image, err := os.ReadFile(folder + "v1.image")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(folder + "v1.json")
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
		Blocks    [][2]int64
		CRC32     uint32
	}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	r, err := Open(image)
	if err != nil {
		t.Fatal(err)
	}

	head := r.Head()
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

	again := make([]byte, head.HeadSize)
	if err := EncodeHead(again, head.Segments, head.Blocks, head.Skeleton, head.Index); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, image[:head.HeadSize]) {
		t.Error("the head is written differently now")
	}
}

func checkTable(t *testing.T, name string, got []Range, want [][2]int64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d %s, want %d", len(got), name, len(want))
		return
	}
	for i, row := range got {
		if row != (Range{want[i][0], want[i][1]}) {
			t.Errorf("row %d of %s is %+v, want %v", i, name, row, want[i])
		}
	}
}
