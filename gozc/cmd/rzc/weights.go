package main

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/edsrzf/mmap-go"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/image"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/safetensors"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

const (
	modelFile = "model file"
	magic     = "\x89RZC\r\n\x1a\n"
	suffix    = ".safetensors"
)

// weights are what is in a file of weights, or in the store.
type weights struct {
	path    string // as it was given
	size    int64
	format  string
	version int         // of the format; 0 for safetensors, which has none
	about   text.Object // what its writer has said of it: class, models, metadata
	tensors []tensor    // in the file's order

	image *image.Image // nil for safetensors
	close func() error
	check func() error // nil for files
}

// sound tells, after it was read, whether it still was what it is: nobody keeps what is in the store for this process.
func (w *weights) sound() error {
	if w.check == nil {
		return nil
	}
	return w.check()
}

// A tensor is one of weights.
type tensor struct {
	name       string
	dtype      string // torch's name without the prefix
	shape      []uint64
	stride     []int64 // nil: its elements lie one after the other
	size       uint64  // of its elements, in bytes
	persistent bool
	base       int // the image in which it lies, as the file counts those; -1: its own
	place      place
	bytes      func() []byte // from the first element to the end of the last
}

// A place says where a tensor lies: in which part of which image, and from which byte there to which.
type place struct {
	base, segment int64
	begin, end    uint64
}

func comparePlaces(a, b tensor) int {
	return cmp.Or(cmp.Compare(a.place.base, b.place.base), cmp.Compare(a.place.segment, b.place.segment),
		cmp.Compare(a.place.begin, b.place.begin), cmp.Compare(a.place.end, b.place.end))
}

func elements(shape []uint64) uint64 {
	count := uint64(1)
	for _, n := range shape {
		count *= n
	}
	return count
}

// isModelFile tells whether a file begins as an image does; a folder does not.
func isModelFile(path string) (bool, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer file.Close()
	if about, err := file.Stat(); err != nil || about.IsDir() {
		return false, err
	}
	head := make([]byte, len(magic))
	n, _ := file.Read(head) // what cannot be read is none
	return string(head[:n]) == magic, nil
}

// open opens what is at hand of a model file, a safetensors file, or an image in the store.
func open(path string) (*weights, error) {
	if strings.HasPrefix(path, storePrefix) {
		return openStored(path)
	}
	is, err := isModelFile(path)
	if err != nil {
		return nil, err
	}
	if !is {
		return openSafetensors(path)
	}
	found, err := image.Open(path)
	if err != nil {
		return nil, err
	}
	return ofImage(path, found, found.Close)
}

func ofImage(path string, found *image.Image, close func() error) (*weights, error) {
	w := &weights{
		path: path, size: found.Size(), format: modelFile, version: found.Version(), image: found, close: close, about: text.Object{},
	}
	if about := found.About(); len(about) > 0 {
		said, err := text.Parse(about)
		object, ok := said.(text.Object)
		if err != nil || !ok {
			return nil, errors.Join(&image.FileError{Path: path, Err: image.ErrDamaged}, close())
		}
		w.about = object
	}
	for _, each := range found.Tensors() {
		shape := make([]uint64, len(each.Shape))
		for i, n := range each.Shape {
			shape[i] = uint64(n)
		}
		size := uint64(each.Elements())
		if size > math.MaxInt64/uint64(each.ElementSize()) { // one value, at each of very many places
			size = math.MaxInt64
		} else {
			size *= uint64(each.ElementSize())
		}
		w.tensors = append(w.tensors, tensor{
			each.Name, each.Dtype, shape, each.Stride, size, each.Persistent, each.Base,
			place{int64(each.Base), int64(each.Segment), uint64(each.Offset), uint64(each.Offset) + uint64(len(each.Bytes()))},
			each.Bytes,
		})
	}
	return w, nil
}

func openSafetensors(path string) (*weights, error) {
	foreign := failed("%s is neither a model file of ray-zerocopy nor a .safetensors file", path)
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	about, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if about.IsDir() {
		return nil, &os.PathError{Op: "open", Path: path, Err: syscall.EISDIR}
	}
	if !about.Mode().IsRegular() || about.Size() == 0 {
		return nil, foreign
	}
	mapped, err := mmap.MapRegion(file, int(about.Size()), mmap.RDONLY, 0, 0)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: path, Err: err}
	}
	header, err := safetensors.Read(mapped, about.Size())
	if err != nil {
		_ = mapped.Unmap()
		if errors.Is(err, safetensors.ErrForeign) || !strings.HasSuffix(path, suffix) {
			return nil, foreign
		}
		return nil, failed("%s: %w", path, err)
	}
	metadata := text.Object{}
	for key, value := range header.Metadata {
		metadata = append(metadata, text.Field{Key: key, Value: value})
	}
	slices.SortFunc(metadata, func(a, b text.Field) int { return strings.Compare(a.Key, b.Key) })
	w := &weights{
		path: path, size: about.Size(), format: "safetensors", about: text.Object{{Key: "metadata", Value: metadata}},
		close: mapped.Unmap,
	}
	for _, each := range header.Tensors {
		data := mapped[header.Data:][each.Begin:each.End:each.End]
		w.tensors = append(w.tensors, tensor{
			each.Name, torchDtype(each.Dtype), each.Shape, nil, each.End - each.Begin, true, -1,
			place{-1, 0, each.Begin, each.End}, func() []byte { return data },
		})
	}
	return w, nil
}

var (
	letters = regexp.MustCompile(`^(BF|F|I|U|C)(\d.*)`)
	kinds   = map[string]string{"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "C": "complex"}
)

// torchDtype returns torch's name for a dtype of safetensors: bfloat16 for BF16.
func torchDtype(dtype string) string {
	if found := letters.FindStringSubmatch(dtype); found != nil {
		return kinds[found[1]] + strings.ToLower(found[2])
	}
	return strings.ToLower(dtype)
}

// tensor returns the first tensor of a name.
func (w *weights) tensor(name string) (*tensor, error) {
	at := slices.IndexFunc(w.tensors, func(t tensor) bool { return t.name == name })
	if at < 0 {
		return nil, failed("%s has no tensor %s%s", w.path, text.Quote(name), w.similar(name))
	}
	return &w.tensors[at], nil
}

// similar says which names have this one in them.
func (w *weights) similar(name string) string {
	var found []string
	for _, each := range w.tensors {
		if strings.Contains(each.name, name) {
			found = append(found, text.Quote(each.name))
		}
	}
	const most = 5
	switch n := len(found); {
	case n == 0:
		return ""
	case n > most:
		return failed("; it has %s and %d more", strings.Join(found[:most], ", "), n-most).Error()
	}
	return "; it has " + strings.Join(found, ", ")
}

// shared returns lists of names that have bytes in common, or each with one that has.
func (w *weights) shared() [][]string {
	var groups [][]string
	var last tensor
	end := uint64(0)
	for _, each := range slices.SortedStableFunc(slices.Values(w.tensors), comparePlaces) {
		if each.place.begin == each.place.end {
			continue
		}
		same := each.place.base == last.place.base && each.place.segment == last.place.segment
		if len(groups) > 0 && same && each.place.begin < end {
			groups[len(groups)-1] = append(groups[len(groups)-1], each.name)
			end = max(end, each.place.end)
		} else {
			groups = append(groups, []string{each.name})
			end = each.place.end
		}
		last = each
	}
	return slices.DeleteFunc(groups, func(group []string) bool { return len(group) == 1 })
}

// A total counts the tensors of a dtype; shared memory counts once, for the first that has it.
type total struct {
	dtype                    string
	tensors, elements, bytes uint64
}

// totals counts the tensors of each dtype, that with the most bytes first.
func (w *weights) totals() []total {
	var found []total
	inside, reached := [2]int64{-1, -1}, uint64(0)
	for _, each := range slices.SortedStableFunc(slices.Values(w.tensors), comparePlaces) {
		if where := [2]int64{each.place.base, each.place.segment}; where != inside {
			inside, reached = where, 0
		}
		begin, fresh := max(each.place.begin, reached), uint64(0)
		if each.place.end > begin {
			fresh = min(each.size, each.place.end-begin) // a tensor with gaps spans more than it has
		}
		reached = max(reached, each.place.end)
		at := slices.IndexFunc(found, func(t total) bool { return t.dtype == each.dtype })
		if at < 0 {
			at, found = len(found), append(found, total{dtype: each.dtype})
		}
		found[at].tensors++
		found[at].elements += elements(each.shape)
		found[at].bytes += fresh
	}
	slices.SortStableFunc(found, func(a, b total) int { return cmp.Compare(b.bytes, a.bytes) })
	return found
}

// equalBytes tells whether two tensors are the same bytes in the same order, as far as that shows at once.
func equalBytes(a, b *tensor) bool {
	return a.dtype == b.dtype && slices.Equal(a.shape, b.shape) && slices.Equal(a.strides(), b.strides()) && bytes.Equal(a.bytes(), b.bytes())
}

// strides returns the steps between elements in each dimension.
func (t *tensor) strides() []int64 {
	if t.stride != nil || len(t.shape) == 0 {
		return t.stride
	}
	strides, step := make([]int64, len(t.shape)), int64(1)
	for i := len(t.shape) - 1; i >= 0; i-- {
		strides[i] = step
		step *= int64(max(1, t.shape[i]))
	}
	return strides
}
