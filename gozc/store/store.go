package store

import (
	"fmt"
	"slices"
	"strings"

	"github.com/edsrzf/mmap-go"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/image"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

// An Entry is an image in a store.
type Entry struct {
	Fingerprint string   // as Image.Fingerprint has it
	Class       string   // name of the class that was wrapped; none in an image that does not say
	Models      []string // names of the models in it, in its order
	Size        int64    // in bytes, without what it shares with others
	Raylet      int      // the process whose store it is

	heap   *heap    // it lies in
	block  block    // of the heap
	start  int64    // of the image in the file
	prefix []byte   // from the block's start to behind the image's header
	bases  []string // fingerprints
}

// An Image is an image in a store, over the store's pages.
type Image struct {
	*image.Image
	entries []*Entry
	maps    []mmap.MMap
}

// Open maps the image, and those that it shares weights with.
func (e *Entry) Open() (*Image, error) {
	found := &Image{entries: []*Entry{e}}
	for _, base := range e.bases {
		at := slices.IndexFunc(e.heap.entries, func(other *Entry) bool { return other.Fingerprint == base })
		if at < 0 {
			return nil, fmt.Errorf("%w: it shares weights (share_with=) with an image that is not in this store", image.ErrBase)
		}
		found.entries = append(found.entries, e.heap.entries[at])
	}
	var memory [][]byte
	for _, entry := range found.entries {
		mapped, bytes, err := entry.heap.mapped(entry.start, entry.Size)
		if err != nil {
			_ = found.unmap()
			return nil, err
		}
		found.maps, memory = append(found.maps, mapped), append(memory, bytes)
	}
	var err error
	found.Image, err = image.Over(memory[0], memory[1:]...)
	if gone := found.Check(); gone != nil { // which is why the rest went wrong, if it did
		err = gone
	}
	if err != nil {
		_ = found.unmap()
		return nil, err
	}
	return found, nil
}

// Check tells whether the store still holds the image, so that all that was read of it until now was it: the error is an
// ErrGone if the store may have put something else there.
func (im *Image) Check() error {
	for _, entry := range im.entries {
		if err := entry.heap.check(entry); err != nil {
			return err
		}
	}
	return nil
}

// Close unmaps the image, with the caveats of the package image.
func (im *Image) Close() error {
	failed := im.Image.Close()
	if err := im.unmap(); failed == nil {
		failed = err
	}
	return failed
}

func (im *Image) unmap() error {
	var failed error
	for i := range im.maps {
		if im.maps[i] == nil {
			continue
		}
		if err := im.maps[i].Unmap(); err != nil {
			failed = err
		}
	}
	return failed
}

// Find returns the one image whose fingerprint begins with what is given, or whose class has that name. Of several that are
// the same image, it is any one.
func Find(what string) (*Entry, error) {
	entries, err := List()
	if err != nil {
		return nil, err
	}
	return find(entries, what)
}

func find(entries []*Entry, what string) (*Entry, error) {
	var found []*Entry
	for _, entry := range entries {
		if what != "" && (strings.HasPrefix(entry.Fingerprint, what) || entry.Class == what) {
			if len(found) == 0 || found[0].Fingerprint != entry.Fingerprint {
				found = append(found, entry)
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%w: none has the class or fingerprint %s", ErrNotFound, text.Quote(what))
	case 1:
		return found[0], nil
	}
	prints := make([]string, len(found))
	for i, entry := range found {
		prints[i] = entry.Fingerprint[:8]
	}
	return nil, fmt.Errorf("%w: %d have the class or fingerprint %s; their fingerprints begin with %s",
		ErrNotFound, len(found), text.Quote(what), strings.Join(prints, ", "))
}

// entryOf is what is to be known of an image, whose head has been checked; bytes begin with it.
func entryOf(head format.Head, bytes []byte) (*Entry, error) {
	fingerprint, err := format.Fingerprint(bytes)
	if err != nil {
		return nil, err
	}
	entry := &Entry{Fingerprint: fingerprint, Size: head.ImageSize}
	for _, base := range head.Bases {
		entry.bases = append(entry.bases, base.Fingerprint())
	}
	said, _ := text.Parse(slices.Clone(head.About)) // what is no JSON says nothing
	about, _ := said.(text.Object)
	entry.Class, _ = about.Get("class").(string)
	models, _ := about.Get("models").(text.Object)
	for _, model := range models {
		entry.Models = append(entry.Models, model.Key)
	}
	return entry, nil
}
