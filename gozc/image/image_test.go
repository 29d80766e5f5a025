package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"
)

// What the Python package wrote; the JSON beside each image says what is in it.
const golden = "../../tests/golden/"

func opened(t *testing.T, path string) *Image {
	t.Helper()
	image, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := image.Close(); err != nil {
			t.Error(err)
		}
	})
	return image
}

// copied is a copy of a golden image, changed, in a folder of its own.
func copied(t *testing.T, name string, change func([]byte) []byte) string {
	t.Helper()
	bytes, err := os.ReadFile(golden + name)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, change(bytes), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEveryGoldenFileOpensWithTheTensorsThatItHas(t *testing.T) {
	for name, bases := range map[string][]string{"v1": nil, "v2": nil, "v2-shared": {"v2.image"}} {
		t.Run(name, func(t *testing.T) {
			var want struct {
				Tensors []struct {
					Name, Dtype   string
					Shape, Stride []int64
					Persistent    bool
					SHA256        string
				}
				Size int64 `json:"image_size"`
			}
			text, err := os.ReadFile(golden + name + ".json")
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &want); err != nil {
				t.Fatal(err)
			}
			image := opened(t, golden+name+".image")
			if image.Size() != want.Size || image.Version() != int(name[1]-'0') || !filepath.IsAbs(image.Path()) {
				t.Errorf("%d bytes of version %d at %s", image.Size(), image.Version(), image.Path())
			}
			var names []string
			for _, base := range image.Bases() {
				names = append(names, filepath.Base(base))
			}
			if !slices.Equal(names, bases) {
				t.Errorf("bases %q, want %q", names, bases)
			}
			if len(image.Tensors()) != len(want.Tensors) {
				t.Fatalf("%d tensors, want %d", len(image.Tensors()), len(want.Tensors))
			}
			for i, want := range want.Tensors {
				got, err := image.Tensor(want.Name)
				if err != nil || got != image.Tensors()[i] {
					t.Fatalf("%q: %v, and another one in the list", want.Name, err)
				}
				sum := sha256.Sum256(got.Bytes())
				if got.Dtype != want.Dtype || !slices.Equal(got.Shape, want.Shape) || !slices.Equal(got.Stride, want.Stride) ||
					got.Persistent != want.Persistent || hex.EncodeToString(sum[:]) != want.SHA256 {
					t.Errorf("%+v with SHA-256 %x, want %+v", got, sum, want)
				}
			}
			if err := image.Verify(); name == "v1" && !errors.Is(err, ErrNoSums) || name != "v1" && err != nil {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

func TestBytesAreThoseOfTheFileAndNoCopy(t *testing.T) {
	path := copied(t, "v2.image", func(bytes []byte) []byte { return bytes })
	image := opened(t, path)
	table, err := image.Tensor("['list'][0].weight")
	if err != nil {
		t.Fatal(err)
	}
	bytes := table.Bytes()
	if table.Segment != 0 || table.Offset != 0 || len(bytes) != 4096*8*4 {
		t.Fatalf("%d bytes at %d of segment %d", len(bytes), table.Offset, table.Segment)
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	changed := bytes[0] + 1
	if _, err := file.WriteAt([]byte{changed}, image.head().HeadSize); err != nil {
		t.Fatal(err)
	}
	if bytes[0] != changed {
		t.Error("what is written to the file does not show in the bytes: they are a copy")
	}
	if again, _ := image.Tensor("['list'][1].weight"); &again.Bytes()[0] != &bytes[0] {
		t.Error("one tensor under two names is in memory twice")
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	bytes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

func TestWhatCannotBeOpenedGivesATypedErrorThatNamesTheFile(t *testing.T) {
	folder := t.TempDir()
	fifo := filepath.Join(folder, "pipe")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	version := func(bytes []byte) []byte { bytes[8] = 9; return bytes }
	order := func(bytes []byte) []byte { slices.Reverse(bytes[12:16]); return bytes }
	for _, test := range []struct {
		name string
		path string
		want error
		word string
	}{
		{"missing", filepath.Join(folder, "none"), fs.ErrNotExist, "none"},
		{"folder", folder, ErrFile, "no regular file"},
		{"pipe", fifo, ErrFile, "no regular file"},
		{"empty", copied(t, "v2.image", func([]byte) []byte { return nil }), ErrFile, "empty"},
		{"text", copied(t, "v2.json", func(b []byte) []byte { return b }), ErrForeign, "not an image"},
		{"cut", copied(t, "v2.image", func(b []byte) []byte { return b[:len(b)-1] }), ErrDamaged, "it was cut short"},
		{"head cut", copied(t, "v2.image", func(b []byte) []byte { return b[:1000] }), ErrDamaged, "head_size"},
		{"longer", copied(t, "v2.image", func(b []byte) []byte { return append(b, 0) }), ErrDamaged, "appended"},
		{"head changed", copied(t, "v2.image", func(b []byte) []byte { b[1000] ^= 1; return b }), ErrDamaged, "checksum"},
		{"later version", copied(t, "v2.image", version), ErrVersion, "version 9"},
		{"other byte order", copied(t, "v2.image", order), ErrByteOrder, "byte order"},
		{"no base", copied(t, "v2-shared.image", func(b []byte) []byte { return b }), ErrBase, "'v2.image'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			image, err := Open(test.path)
			if image != nil || !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.word) ||
				!strings.Contains(err.Error(), test.path) {
				t.Errorf("%v, want %v and %q", err, test.want, test.word)
			}
		})
	}
}

func TestABaseThatIsAnotherImageIsRefused(t *testing.T) {
	path := copied(t, "v2-shared.image", func(b []byte) []byte { return b })
	if err := os.Link(copied(t, "v1.image", func(b []byte) []byte { return b }), filepath.Join(filepath.Dir(path), "v2.image")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrBase) {
		t.Errorf("%v, want an ErrBase", err)
	}
	var missing *BaseError
	lonely := copied(t, "v2-shared.image", func(b []byte) []byte { return b })
	if _, err := Open(lonely); !errors.As(err, &missing) || missing.Base != "v2.image" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, want a BaseError over a file that is missing", err)
	}
}

func TestVerifyNamesTheTensorThatIsDamaged(t *testing.T) {
	path := copied(t, "v2.image", func(bytes []byte) []byte {
		head, _ := Open(golden + "v2.image")
		defer head.Close()
		bytes[head.head().HeadSize+5] ^= 1
		return bytes
	})
	err := opened(t, path).Verify()
	var sums *SumError
	if !errors.As(err, &sums) || !errors.Is(err, ErrDamaged) || !slices.Contains(sums.Tensors, "['list'][0].weight") ||
		sums.Base != -1 || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}

func TestAnImageInMemoryIsReadLikeAFile(t *testing.T) {
	base, shared := readFile(t, golden+"v2.image"), readFile(t, golden+"v2-shared.image")
	image, err := Over(shared, base)
	if err != nil {
		t.Fatal(err)
	}
	file := opened(t, golden+"v2-shared.image")
	for i, tensor := range image.Tensors() {
		if string(tensor.Bytes()) != string(file.Tensors()[i].Bytes()) {
			t.Errorf("%q has other bytes", tensor.Name)
		}
	}
	if err := image.Verify(); err != nil || image.Fingerprint() != file.Fingerprint() || len(image.Fingerprint()) != 32 {
		t.Errorf("%v, %q and %q", err, image.Fingerprint(), file.Fingerprint())
	}
	if _, err := Over(shared); !errors.Is(err, ErrBase) {
		t.Errorf("without its base: %v", err)
	}
}

func TestAClosedImageGivesNothingOut(t *testing.T) {
	image, err := Open(golden + "v2.image")
	if err != nil {
		t.Fatal(err)
	}
	tensor := image.Tensors()[0]
	for range 2 {
		if err := image.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := image.Tensor(tensor.Name); !errors.Is(err, ErrClosed) || !errors.Is(image.Verify(), ErrClosed) ||
		image.Tensors() != nil || image.Size() != 0 || image.Version() != 0 || image.Fingerprint() != "" {
		t.Errorf("%v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("bytes of a closed image")
		}
	}()
	tensor.Bytes()
}

func TestEachKindOfTensorHasItsView(t *testing.T) {
	image := opened(t, golden+"v2.image")
	tensor := func(name string) *Tensor {
		found, err := image.Tensor("['model']." + name)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if got, err := View[float32](tensor("weight")); err != nil || len(got) != 15 || got[14] != 14 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := View[BFloat16](tensor("brain")); err != nil || len(got) != 4 || got[3].Float32() != 3 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := View[float32](tensor("empty")); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	transposed := tensor("transposed")
	got, err := View[int64](transposed)
	if err != nil || transposed.Contiguous() || got[2*transposed.Stride[0]+1*transposed.Stride[1]] != 5 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := View[float64](transposed); !errors.Is(err, ErrDtype) || !strings.Contains(err.Error(), "is int64, not float64") {
		t.Error(err)
	}
	if _, err := image.Tensor("weight"); !errors.Is(err, ErrNoTensor) {
		t.Error(err)
	}
}

func TestContiguous(t *testing.T) {
	for _, test := range []struct {
		shape, stride []int64
		want          bool
	}{
		{nil, nil, true},
		{[]int64{2, 3}, []int64{3, 1}, true},
		{[]int64{2, 3}, []int64{1, 2}, false},
		{[]int64{2, 3}, []int64{0, 1}, false},
		{[]int64{1, 3}, []int64{7, 1}, true},
		{[]int64{0, 3}, []int64{1, 2}, true},
		{[]int64{4}, []int64{2}, false},
	} {
		if got := (&Tensor{Shape: test.shape, Stride: test.stride}).Contiguous(); got != test.want {
			t.Errorf("shape %v, stride %v: %v", test.shape, test.stride, got)
		}
	}
}

func TestAFileThatDoesNotNameItsBasesSaysSo(t *testing.T) {
	path := copied(t, "v2-shared.image", func(bytes []byte) []byte {
		head, err := format.Check(bytes, int64(len(bytes)))
		if err != nil {
			t.Fatal(err)
		}
		parts := head.Parts
		parts.About = []byte(`{"class":"dict"}`)
		size, err := format.HeadSize(parts.Counts())
		if err != nil {
			t.Fatal(err)
		}
		again := make([]byte, size)
		if err := format.EncodeHead(again, parts); err != nil {
			t.Fatal(err)
		}
		return append(again, bytes[head.HeadSize:]...)
	})
	if _, err := Open(path); !errors.Is(err, ErrBase) || !strings.Contains(err.Error(), "names the files of 0") {
		t.Error(err)
	}
	for _, about := range []string{"[]", "{", `{"bases":1}`, `{"bases":[1]}`, "\"\xff\"", "{}\x00"} {
		if names, err := basesOf([]byte(about)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v, %v", about, names, err)
		}
	}
}
