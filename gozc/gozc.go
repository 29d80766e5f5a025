// Package gozc is what Python sees of the Go core, through gopy. It has no logic of its own.
//
// Integers and strings go in; an (int64, error) or a (string, error) comes out. Other shapes are dropped by
// gopy without a word, or leak. Addresses are those of memory that the caller keeps alive during the call;
// nothing is kept after it. An error's text begins with a code and a colon: foreign, version, damaged,
// argument, private, scarce, nofile, unsupported, base, system or panic.
package gozc

import (
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/failpoint"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/layout"
	_ "github.com/ray-zerocopy/ray-zerocopy/gozc/internal/limit" // nothing global changes
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/pickle"
	_ "github.com/ray-zerocopy/ray-zerocopy/gozc/internal/poller" // no timer ends the process
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/safetensors"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/shm"
	_ "github.com/ray-zerocopy/ray-zerocopy/gozc/internal/stack" // a cheap first call
)

// FormatVersion returns the version of the image format that is written and read.
func FormatVersion() (version int64, err error) {
	defer recovered(&err)
	return format.Version, nil
}

// Plan lays out the blocks, count rows of address and length. It writes each block's offset in the data to
// offsets, and to segments, which has room for count+1 rows, each segment's address (0: to be packed), offset
// and length. It returns the number of segments.
func Plan(blocks, count, offsets, segments int64) (segmentCount int64, err error) {
	defer recovered(&err)
	list, err := viewBlocks(blocks, count)
	if err != nil {
		return 0, err
	}
	offsetRows, err := viewRows("offsets", offsets, count, 1)
	if err != nil {
		return 0, err
	}
	plan, err := layout.Plan(list)
	if err != nil {
		return 0, err
	}
	segmentRows, err := viewRows("segments", segments, int64(len(plan.Segments)), 3)
	if err != nil {
		return 0, err
	}
	copy(offsetRows, plan.Offsets)
	for i, segment := range plan.Segments {
		copy(segmentRows[3*i:], []int64{segment.Address, segment.Offset, segment.Length})
	}
	return int64(len(plan.Segments)), nil
}

// Pack copies the blocks that Plan has put into the packed segment, which lies at segmentOffset in the data, to
// dst, the length bytes for that segment. It returns length.
func Pack(blocks, count, offsets, segmentOffset, dst, length int64) (packed int64, err error) {
	defer recovered(&err)
	list, err := viewBlocks(blocks, count)
	if err != nil {
		return 0, err
	}
	offsetRows, err := viewRows("offsets", offsets, count, 1)
	if err != nil {
		return 0, err
	}
	if segmentOffset < 0 {
		return 0, fmt.Errorf("%w: segment offset %d", errArgument, segmentOffset)
	}
	buffer, err := viewBytes("packed segment", dst, length)
	if err != nil {
		return 0, err
	}
	return length, layout.Pack(list, offsetRows, segmentOffset, buffer)
}

// CountSums returns how many checksums the blocks, count rows of address and length, have.
func CountSums(blocks, count int64) (sums int64, err error) {
	defer recovered(&err)
	list, err := viewBlocks(blocks, count)
	if err != nil {
		return 0, err
	}
	return format.CountSums(placeBlocks(list, make([]int64, len(list)))), nil // only their lengths count here
}

// Sums reads the blocks, count rows of address and length, and writes their checksums to sums, as many as CountSums says.
// It returns their number.
func Sums(blocks, count, sums, sumCount int64) (written int64, err error) {
	defer recovered(&err)
	list, err := viewBlocks(blocks, count)
	if err != nil {
		return 0, err
	}
	room, err := viewRows("sums", sums, sumCount, 1)
	if err != nil {
		return 0, err
	}
	memory := make([][]byte, len(list))
	for i, block := range list {
		if memory[i], err = viewBytes("block", block.Address, block.Length); err != nil {
			return 0, err
		}
	}
	found := format.Sums(memory)
	if len(found) != len(room) {
		return 0, fmt.Errorf("%w: room for %d checksums of %d", errArgument, len(room), len(found))
	}
	for i, sum := range found {
		room[i] = int64(sum)
	}
	return sumCount, nil
}

// Share finds the blocks whose bytes lie in other images already, baseCount rows of address and length of a whole image.
// sums are the blocks' checksums. It writes to offsets, for each block, where it lies in which base, a negative number,
// or 0, and returns how many lie in one.
func Share(blocks, count, sums, sumCount, bases, baseCount, offsets int64) (shared int64, err error) {
	defer recovered(&err)
	list, err := viewBlocks(blocks, count)
	if err != nil {
		return 0, err
	}
	known, err := viewSums(sums, sumCount)
	if err != nil {
		return 0, err
	}
	images, err := viewImages(bases, baseCount)
	if err != nil {
		return 0, err
	}
	rows, err := viewRows("offsets", offsets, count, 1)
	if err != nil {
		return 0, err
	}
	found, err := format.Share(list, known, images)
	if err != nil {
		return 0, err
	}
	for i, offset := range found {
		rows[i] = offset
		if offset < 0 {
			shared++
		}
	}
	return shared, nil
}

// HeadSize returns the length of a head with so many segments, blocks, checksums and bases, and so many bytes of
// skeleton, index and about.
func HeadSize(segments, blocks, skeleton, index, sums, about, bases int64) (size int64, err error) {
	defer recovered(&err)
	return format.HeadSize(format.Counts{
		Segments: segments, Blocks: blocks, Skeleton: skeleton, Index: index, Sums: sums, About: about, Bases: bases,
	})
}

// EncodeHead writes the head of an image to dst, size bytes as HeadSize says. segments and offsets are what
// Plan (and Share) have written for blocks, sums what Sums has; skeleton is skeletonSize bytes, index and about JSON
// texts; bases are the images that blocks are shared with, rows of address and length. It returns size.
func EncodeHead(
	dst, size, segments, segmentCount, blocks, offsets, blockCount, skeleton, skeletonSize, sums, sumCount, bases,
	baseCount int64, index, about string,
) (written int64, err error) {
	defer recovered(&err)
	buffer, err := viewBytes("head", dst, size)
	if err != nil {
		return 0, err
	}
	parts := format.Parts{Index: []byte(index), About: []byte(about)}
	if parts.Segments, err = viewSegments(segments, segmentCount); err != nil {
		return 0, err
	}
	list, err := viewBlocks(blocks, blockCount)
	if err != nil {
		return 0, err
	}
	offsetRows, err := viewRows("offsets", offsets, blockCount, 1)
	if err != nil {
		return 0, err
	}
	parts.Blocks = placeBlocks(list, offsetRows)
	if parts.Skeleton, err = viewBytes("skeleton", skeleton, skeletonSize); err != nil {
		return 0, err
	}
	if parts.Sums, err = viewSums(sums, sumCount); err != nil {
		return 0, err
	}
	images, err := viewImages(bases, baseCount)
	if err != nil {
		return 0, err
	}
	for _, each := range images {
		base, _, err := format.BaseOf(each)
		if err != nil {
			return 0, err
		}
		parts.Bases = append(parts.Bases, base)
	}
	return size, format.EncodeHead(buffer, parts)
}

// CheckHead checks the head of an image: length bytes at head, which begin with the image, of imageSize bytes
// that are at hand of the whole image. bases are the images that blocks are shared with, rows of address and length, in
// the order of the head; -1 of them: they are not looked at. It returns the number of blocks.
func CheckHead(head, length, imageSize, bases, baseCount int64) (blockCount int64, err error) {
	defer recovered(&err)
	bytes, err := viewBytes("head", head, length)
	if err != nil {
		return 0, err
	}
	if imageSize < 0 {
		return 0, fmt.Errorf("%w: an image of %d bytes", errArgument, imageSize)
	}
	checked, err := format.Check(bytes, imageSize)
	if err == nil && baseCount >= 0 {
		var images [][]byte
		if images, err = viewImages(bases, baseCount); err == nil {
			_, err = format.Attach(checked, images)
		}
	}
	return int64(len(checked.Blocks)), err
}

// Verify checks a whole image, length bytes at address, and its data against the checksums in its head, that in its
// bases included, see CheckHead. It returns the row of the first block whose bytes are not those that were written, or -1.
func Verify(address, length, bases, baseCount int64) (block int64, err error) {
	defer recovered(&err)
	bytes, err := viewBytes("image", address, length)
	if err != nil {
		return 0, err
	}
	images, err := viewImages(bases, baseCount)
	if err != nil {
		return 0, err
	}
	row, err := format.Verify(bytes, images...)
	return int64(row), err
}

// Index checks the head of an image and its index, and returns the index, a JSON text. The data does not have
// to be at hand.
func Index(head, length int64) (index string, err error) {
	defer recovered(&err)
	bytes, err := viewBytes("head", head, length)
	if err != nil {
		return "", err
	}
	checked, err := format.Check(bytes, math.MaxInt64)
	if err != nil {
		return "", err
	}
	if _, err := format.DecodeIndex(checked, nil); err != nil {
		return "", err
	}
	return string(checked.Index), nil
}

// Fingerprint returns what tells an image from all others, as 32 hexadecimal digits: a hash of its head, which has the
// checksums of its data. The data does not have to be at hand.
func Fingerprint(head, length int64) (fingerprint string, err error) {
	defer recovered(&err)
	bytes, err := viewBytes("head", head, length)
	if err != nil {
		return "", err
	}
	return format.Fingerprint(bytes)
}

// Safetensors checks the header of a safetensors file of fileSize bytes, of which length are at hand at head, and
// returns it as a JSON text of the same form whatever the file's own looks like: "metadata", "tensors" in the order of
// the data, each with "name", "dtype", "shape", "begin" and "end" in the data, and "data", where that begins.
func Safetensors(head, length, fileSize int64) (header string, err error) {
	defer recovered(&err)
	bytes, err := viewBytes("head", head, length)
	if err != nil {
		return "", err
	}
	if fileSize < length {
		return "", fmt.Errorf("%w: %d bytes at hand of a file of %d", errArgument, length, fileSize)
	}
	read, err := safetensors.Read(bytes, fileSize)
	if err != nil {
		return "", err
	}
	return read.JSON()
}

// CheckPickle walks through the length bytes of a pickle at address, and returns how many out-of-band buffers it asks
// for.
func CheckPickle(address, length int64) (buffers int64, err error) {
	defer recovered(&err)
	bytes, err := viewBytes("pickle", address, length)
	if err != nil {
		return 0, err
	}
	count, err := pickle.Check(bytes)
	return int64(count), err
}

// Map maps length bytes of shared memory at address again, in mode 1 copy-on-write or 2 read-only, and returns
// the new address. raylet is the process that holds the store's file open, 0 if unknown. Address and length of the
// whole pages, which are the caller's to unmap, go to record, two int64, and not by way of the result: a caller that
// is interrupted between getting it and keeping it would lose the mapping.
func Map(address, length, raylet, mode, record int64) (mapped int64, err error) {
	defer recovered(&err)
	if address <= 0 || length <= 0 || length > maxAddress-address || raylet < 0 || raylet > math.MaxInt32 {
		return 0, fmt.Errorf("%w: map %d bytes at address %d with process %d", errArgument, length, address, raylet)
	}
	words, err := viewRows("record", record, 1, 2)
	if err != nil {
		return 0, err
	}
	mapping, err := shm.Map(address, length, int(raylet), shm.Mode(mode))
	if err != nil {
		return 0, err
	}
	words[0], words[1] = mapping.Base, mapping.Length
	return mapping.Address, nil
}

// MapFile maps the first length bytes of the file that a descriptor is open for, copy-on-write, and returns the address.
// record as in Map; the descriptor stays the caller's.
func MapFile(descriptor, length, record int64) (mapped int64, err error) {
	defer recovered(&err)
	if descriptor < 0 || descriptor > math.MaxInt32 || length <= 0 || length > maxAddress {
		return 0, fmt.Errorf("%w: map %d bytes of descriptor %d", errArgument, length, descriptor)
	}
	words, err := viewRows("record", record, 1, 2)
	if err != nil {
		return 0, err
	}
	mapping, err := shm.MapFile(int(descriptor), length)
	if err != nil {
		return 0, err
	}
	words[0], words[1] = mapping.Base, mapping.Length
	return mapping.Address, nil
}

// Detach makes a mapping this process's own: it keeps its bytes whatever becomes of the store. record is what Map has
// written, mode what it was given. It returns the length of the mapping.
func Detach(record, mode int64) (detached int64, err error) {
	defer recovered(&err)
	words, err := viewRows("record", record, 1, 2)
	if err != nil {
		return 0, err
	}
	if words[0] <= 0 || words[1] <= 0 {
		return 0, fmt.Errorf("%w: detach %d bytes at address %d", errArgument, words[1], words[0])
	}
	return words[1], shm.Mapping{Base: words[0], Length: words[1], Mode: shm.Mode(mode)}.Detach()
}

// Prefault fills the page tables for length bytes at address, with several threads where that pays. It returns
// length.
func Prefault(address, length int64) (filled int64, err error) {
	defer recovered(&err)
	if _, err := viewBytes("memory", address, length); err != nil {
		return 0, err
	}
	return length, shm.Prefault(address, length)
}

// Failpoint has the call with this number (from 1; 0: every call) at a named place ("": at any) fail with an error
// number of the system (code: C has a macro errno), for tests; a code of 0 ends that. It returns how many calls have passed since the
// last time.
func Failpoint(place string, number, code int64) (passed int64, err error) {
	defer recovered(&err)
	return failpoint.Set(place, number, syscall.Errno(code)), nil
}

// Panic panics with text. It exists so that a test can see what becomes of a panic in Python.
func Panic(text string) (never int64, err error) {
	defer recovered(&err)
	panic(text)
}

// Sleep waits and returns milliseconds. It exists so that a test can see that other Python threads run during a
// call.
func Sleep(milliseconds int64) (slept int64, err error) {
	defer recovered(&err)
	time.Sleep(time.Duration(milliseconds) * time.Millisecond)
	return milliseconds, nil
}
