package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/edsrzf/mmap-go"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"
)

// The store's memory is a heap of dlmalloc's in one file: blocks one after the other, each behind two words, of which the
// second has the block's length and, in its last bits, whether the block is in use, and the one before it. So the blocks in
// use can be told without asking the raylet, and that their lengths add up to the file shows that the file is of that kind.
const (
	firstBlock = 48 // offset of the first one's words
	wordsSize  = 16
	smallest   = 32 // bytes of a block
	beforeUsed = 1
	used       = 2
	flags      = 7

	tries = 10 // the raylet gives out blocks meanwhile
)

// A heap is the file of a store.
type heap struct {
	path    string // through a descriptor of the raylet
	about   os.FileInfo
	entries []*Entry
}

// A block is one that is in use: where its words begin, and its length with them.
type block struct{ at, size int64 }

// An object of Ray's begins with what Ray has to say of it and the pickle, and an image in it is at a multiple of 64.
const (
	alignment  = 64
	prefixSize = 1 << 20 // in which the image has to begin
	magic      = "\x89RZC\r\n\x1a\n"
	headerSize = 128 // of an image
)

// opened opens the file again, and makes sure that it is the same one.
func (h *heap) opened() (*os.File, error) {
	file, err := os.Open(h.path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	if about, err := file.Stat(); err != nil || !os.SameFile(about, h.about) {
		file.Close()
		return nil, fmt.Errorf("%w: its store has ended", ErrGone)
	}
	return file, nil
}

// blocks opens the file, and returns the blocks in it that are in use.
func (h *heap) blocks() (*os.File, []block, error) {
	file, err := h.opened()
	if err != nil {
		return nil, nil, err
	}
	found, err := h.walk(file)
	for try := 1; err != nil && try < tries; try++ {
		found, err = h.walk(file)
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, found, nil
}

func (h *heap) walk(file *os.File) ([]block, error) {
	var found []block
	words := make([]byte, wordsSize)
	size, at, before := h.about.Size(), int64(firstBlock), uint64(beforeUsed)
	for at < size {
		if _, err := file.ReadAt(words, at); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrLayout, err)
		}
		word := binary.LittleEndian.Uint64(words[8:])
		length := int64(word &^ flags) // too large a number turns negative
		if length < smallest || length > size-at || word&beforeUsed != before {
			if at+length == size && word&flags == 0 { // what dlmalloc puts behind the last one has no such bit
				break
			}
			return nil, fmt.Errorf("%w: %#x at %d of %d bytes", ErrLayout, word, at, size)
		}
		if word&used != 0 {
			found = append(found, block{at, length})
		}
		before = word & used / used
		at += length
	}
	return found, nil
}

// read finds the images in the file.
func (h *heap) read(raylet int) error {
	file, blocks, err := h.blocks()
	if err != nil {
		return err
	}
	defer file.Close()
	for _, block := range blocks {
		entry, err := h.imageIn(file, block)
		if err != nil { // something else by now, or not yet all there
			continue
		}
		entry.heap, entry.block, entry.Raylet = h, block, raylet
		h.entries = append(h.entries, entry)
	}
	return nil
}

var errNone = errors.New("no image in this block")

// imageIn finds the image that a block holds.
func (h *heap) imageIn(file *os.File, block block) (*Entry, error) {
	from, end := block.at+wordsSize, block.at+block.size
	for _, size := range []int64{4096, prefixSize} { // it is at the beginning, as a rule
		prefix := make([]byte, min(size, end-from))
		if _, err := file.ReadAt(prefix, from); err != nil {
			return nil, err
		}
		at := bytes.Index(prefix, []byte(magic))
		if at < 0 || (from+int64(at))%alignment != 0 {
			continue
		}
		start := from + int64(at)
		mapped, memory, err := h.mappedFrom(file, start, end-start)
		if err != nil {
			return nil, err
		}
		defer func() { _ = mapped.Unmap() }()
		head, err := format.Check(memory, int64(len(memory)))
		if err != nil {
			return nil, err
		}
		entry, err := entryOf(head, memory)
		if err == nil {
			entry.start, entry.prefix = start, append(prefix[:at:at], memory[:headerSize]...)
		}
		return entry, err
	}
	return nil, errNone
}

// mapped maps a part of the file, for reading; the bytes are those that were asked for.
func (h *heap) mapped(start, length int64) (mmap.MMap, []byte, error) {
	file, err := h.opened()
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	return h.mappedFrom(file, start, length)
}

func (h *heap) mappedFrom(file *os.File, start, length int64) (mmap.MMap, []byte, error) {
	inPage := start % int64(os.Getpagesize())
	mapped, err := mmap.MapRegion(file, int(length+inPage), mmap.RDONLY, 0, start-inPage)
	if err != nil {
		return nil, nil, fmt.Errorf("map %d bytes at %d of %s: %w", length, start, h.path, err)
	}
	return mapped, mapped[inPage:], nil
}

// check tells whether an image still is where it was found.
func (h *heap) check(entry *Entry) error {
	file, blocks, err := h.blocks()
	if err != nil {
		return err
	}
	defer file.Close()
	for _, block := range blocks {
		if block != entry.block {
			continue
		}
		prefix := make([]byte, len(entry.prefix))
		if _, err := file.ReadAt(prefix, block.at+wordsSize); err != nil {
			return fmt.Errorf("%w: %w", ErrGone, err)
		}
		if bytes.Equal(prefix, entry.prefix) {
			return nil
		}
	}
	return fmt.Errorf("%w: its memory was given back while it was read", ErrGone)
}
