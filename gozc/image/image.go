package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"github.com/edsrzf/mmap-go"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/kind"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

// An Image is a model: its named tensors, and what its writer has said of it.
type Image struct {
	path    string
	bases   []string // paths
	memory  [][]byte // of the image and of its bases
	maps    []mmap.MMap
	reader  *format.Reader
	tensors []*Tensor
	about   []byte
}

// Open maps an image in a file, and those that it shares weights with, which are files too. It reads their heads, and checks
// them; the weights are neither read nor checked, see Verify.
//
// The error is one of this package's, a *FileError or a *BaseError, or, where a file cannot be opened, an *fs.PathError.
func Open(path string) (*Image, error) {
	target, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	image := &Image{path: target}
	if err := image.open(); err != nil {
		_ = image.Close() // what could not be unmapped has been lost anyway
		return nil, err
	}
	return image, nil
}

func (im *Image) open() error {
	head, err := im.mapFile(im.path)
	if err != nil {
		return err
	}
	if im.bases, err = basesOf(head.About); err != nil {
		return &FileError{im.path, err}
	}
	if len(im.bases) != len(head.Bases) {
		return kind.Of(ErrBase, "%s shares weights with %d other images, and names the files of %d: wrapper.save() "+
			"writes files that can be opened", text.Quote(im.path), len(head.Bases), len(im.bases))
	}
	for i, base := range im.bases {
		if !filepath.IsAbs(base) {
			im.bases[i] = filepath.Join(filepath.Dir(im.path), base)
		}
		if _, err := im.mapFile(im.bases[i]); err != nil {
			return &BaseError{im.path, base, err}
		}
	}
	if err := im.read(); err != nil {
		return &FileError{im.path, err}
	}
	return nil
}

// Over gives an image in memory, and those that it shares weights with, in the order in which it names them. What it hands
// out are views of these bytes, which have to stay as they are. There is nothing to close.
func Over(memory []byte, bases ...[]byte) (*Image, error) {
	image := &Image{memory: append([][]byte{memory}, bases...)}
	if err := image.read(); err != nil {
		return nil, err
	}
	return image, nil
}

// read reads the head of what is in memory, and the index in it.
func (im *Image) read() error {
	var err error
	if im.reader, err = format.Open(im.memory[0], im.memory[1:]...); err != nil {
		return err
	}
	im.about = im.reader.Head().About
	for row, entry := range im.reader.Tensors() {
		im.tensors = append(im.tensors, &Tensor{
			Name: entry.Name, Dtype: entry.Dtype, Shape: entry.Shape, Stride: entry.Stride, Persistent: entry.Persistent,
			Base: int(entry.Base), Segment: int(entry.Segment), Offset: entry.Offset, image: im, row: row,
		})
	}
	return nil
}

// mapFile maps a file that is an image from its first byte to its last, and returns its head.
func (im *Image) mapFile(path string) (format.Head, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // of a pipe, or one would wait for a writer
	if err != nil {
		return format.Head{}, err
	}
	defer file.Close()
	about, err := file.Stat()
	if err != nil {
		return format.Head{}, err
	}
	if !about.Mode().IsRegular() {
		return format.Head{}, &FileError{path, kind.Of(ErrFile, "this is no regular file, which alone can be mapped")}
	}
	if about.Size() == 0 {
		return format.Head{}, &FileError{path, kind.Of(ErrFile, "this file is empty")}
	}
	mapped, err := mmap.MapRegion(file, int(about.Size()), mmap.RDONLY, 0, 0)
	if err != nil {
		return format.Head{}, &os.PathError{Op: "mmap", Path: path, Err: err}
	}
	im.maps, im.memory = append(im.maps, mapped), append(im.memory, mapped)
	head, err := format.Check(mapped, math.MaxInt64)
	if err == nil && head.ImageSize != about.Size() {
		what := "something was appended to it"
		if head.ImageSize > about.Size() {
			what = "it was cut short"
		}
		err = kind.Of(ErrDamaged, "it has %s bytes, and the image in it %s: %s",
			text.Number(about.Size()), text.Number(head.ImageSize), what)
	}
	if err != nil {
		return format.Head{}, &FileError{path, err}
	}
	return head, nil
}

// basesOf returns the paths of the bases in what an image says of itself.
func basesOf(about []byte) ([]string, error) {
	if len(about) == 0 {
		return nil, nil
	}
	for _, b := range about {
		if b == 0 || b > 127 {
			return nil, kind.Of(ErrDamaged, "what the image says of itself is not JSON in ASCII")
		}
	}
	if !json.Valid(about) {
		return nil, kind.Of(ErrDamaged, "what it says of itself is no JSON")
	}
	var said struct{ Bases []string }
	if err := json.Unmarshal(about, &said); err != nil || !bytes.HasPrefix(bytes.TrimLeft(about, " \t\r\n"), []byte("{")) {
		return nil, kind.Of(ErrDamaged, "what it says of itself is not what a writer of images writes")
	}
	return said.Bases, nil
}

// Close unmaps the image. No tensor of it may be in use, or used afterwards: see the caveats of the package.
func (im *Image) Close() error {
	var failed error
	for i := range im.maps {
		failed = errors.Join(failed, im.maps[i].Unmap())
	}
	im.maps, im.memory, im.reader, im.tensors, im.about = nil, nil, nil, nil, nil
	return failed
}

// Tensors returns the named tensors, in the order of the model; none after Close.
func (im *Image) Tensors() []*Tensor { return im.tensors }

// Tensor returns the tensor of a name: its key in state_dict, behind the path of its model where the image is a pipeline
// (encoder.layer.0.weight).
func (im *Image) Tensor(name string) (*Tensor, error) {
	if im.reader == nil {
		return nil, ErrClosed
	}
	row, ok := im.reader.Row(name)
	if !ok {
		return nil, kind.Of(ErrNoTensor, "no tensor is called %s", text.Quote(name))
	}
	return im.tensors[row], nil
}

// Path returns the path of the file, absolute; none for an image in memory.
func (im *Image) Path() string { return im.path }

// Bases returns the paths of the files of the images that this one shares weights with.
func (im *Image) Bases() []string { return im.bases }

// About returns what the writer has said of the image, a JSON object, whose keys docs/format.md lists; nothing in an image of
// version 1.
func (im *Image) About() []byte { return bytes.Clone(im.about) }

// Version returns the version of the format that the image is in; 0 after Close.
func (im *Image) Version() int { return im.head().Version }

// Size returns the length of the image in bytes, without the images that it shares weights with; 0 after Close.
func (im *Image) Size() int64 { return im.head().ImageSize }

// Fingerprint returns what tells the image from all others, as 32 hexadecimal digits: a hash of its head, which has the
// checksums of the data. An image that was put into Ray's store as it was in a file has the file's.
func (im *Image) Fingerprint() string {
	if im.reader == nil {
		return ""
	}
	found, _ := format.Fingerprint(im.memory[0]) // the head has been checked
	return found
}

func (im *Image) head() format.Head {
	if im.reader == nil {
		return format.Head{}
	}
	return im.reader.Head()
}
