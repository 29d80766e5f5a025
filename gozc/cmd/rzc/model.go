package main

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/layout"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

// writeImage writes an image of the tensors of a safetensors file: to Python a dictionary of them.
func writeImage(path string, found *weights) error {
	tensors := make([]tensor, len(found.tensors))
	for i, each := range found.tensors {
		of, err := asTorch(path, each)
		if err != nil {
			return err
		}
		tensors[i] = of
	}
	head, segments, err := imageOf(tensors)
	if err != nil {
		return err
	}
	return writeFile(path, func(write func([]byte) error) error {
		if err := write(head); err != nil {
			return err
		}
		end := 0
		for _, segment := range segments {
			if err := write(make([]byte, -end&(layout.Alignment-1))); err != nil {
				return err
			}
			if err := write(segment); err != nil {
				return err
			}
			end += -end&(layout.Alignment-1) + len(segment)
		}
		return nil
	})
}

// asTorch is a tensor as torch has it.
func asTorch(path string, each tensor) (tensor, error) {
	at := slices.IndexFunc(dtypes, func(pair [2]string) bool { return torchDtype(pair[0]) == each.dtype })
	if at < 0 {
		return each, failed("%s: tensor %s is %s, which torch has no dtype for", text.Quote(path), text.Quote(each.name), each.dtype)
	}
	each.dtype = dtypes[at][1]
	if dtypes[at][0] == packed {
		last := len(each.shape) - 1
		if last < 0 || each.shape[last]%2 != 0 {
			return each, failed("%s: tensor %s is %s of shape %s, and torch packs two values of the last dimension",
				text.Quote(path), text.Quote(each.name), packed, dimensions(each.shape))
		}
		each.shape = slices.Clone(each.shape)
		each.shape[last] /= 2
	}
	for i, n := range each.shape {
		if int64(n) < 0 || each.strides()[i] < 0 {
			return each, failed("%s: tensor %s is of shape %s, which torch cannot count",
				text.Quote(path), text.Quote(each.name), dimensions(each.shape))
		}
	}
	return each, nil
}

// imageOf gives the head of an image, and its segments.
func imageOf(tensors []tensor) (head []byte, segments [][]byte, err error) {
	blocks, memory := make([]layout.Block, len(tensors)), make([][]byte, len(tensors))
	for i, each := range tensors {
		memory[i] = each.bytes()
		if len(memory[i]) > 0 {
			blocks[i] = layout.Block{Address: mem.Address(memory[i]), Length: int64(len(memory[i]))}
		}
	}
	defer runtime.KeepAlive(memory)
	plan, err := layout.Plan(blocks)
	if err != nil {
		return nil, nil, err
	}
	parts := format.Parts{
		Skeleton: skeletonOf(tensors), Index: indexOf(tensors, plan), About: aboutOfTensors(), Sums: format.Sums(memory),
	}
	for _, segment := range plan.Segments {
		parts.Segments = append(parts.Segments, format.Range{Offset: segment.Offset, Length: segment.Length})
		if segment.Address != 0 {
			segments = append(segments, mem.Bytes(segment.Address, segment.Length))
			continue
		}
		small := make([]byte, segment.Length)
		if err := layout.Pack(blocks, plan.Offsets, segment.Offset, small); err != nil {
			return nil, nil, err
		}
		segments = append(segments, small)
	}
	for i, block := range blocks {
		parts.Blocks = append(parts.Blocks, format.Range{Offset: plan.Offsets[i], Length: block.Length})
	}
	size, err := format.HeadSize(parts.Counts())
	if err != nil {
		return nil, nil, err
	}
	head = make([]byte, size)
	return head, segments, format.EncodeHead(head, parts)
}

func indexOf(tensors []tensor, plan layout.Layout) []byte {
	entries := make([]string, len(tensors))
	for i, each := range tensors {
		segment, offset := -1, int64(0)
		if each.size > 0 {
			segment, _ = slices.BinarySearchFunc(plan.Segments, plan.Offsets[i], func(s layout.Segment, offset int64) int {
				if s.Offset+s.Length <= offset {
					return -1
				}
				return 0
			})
			offset = plan.Offsets[i] - plan.Segments[segment].Offset
		}
		entries[i] = fmt.Sprintf(`{"name":%s,"dtype":"%s","shape":[%s],"stride":[%s],"segment":%d,"offset":%d,"persistent":true}`,
			text.JSONString(each.name, true), each.dtype, listed(each.shape), listed(each.strides()), segment, offset)
	}
	return []byte(`{"tensors":[` + strings.Join(entries, ",") + "]}")
}

func listed[T any](numbers []T) string {
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = fmt.Sprint(n)
	}
	return strings.Join(texts, ",")
}

// aboutOfTensors is what such an image says of itself: that all tensors are of one model, and nothing can be called.
func aboutOfTensors() []byte {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	return []byte(`{"class":"dict","models":{"model":null},"standalone":true,"mode":"actor","single":null,"private":{"bytes":0,"paths":{}},` +
		`"interface":{"methods":[],"generators":[],"attributes":[],"signatures":{}},` +
		`"made_with":{"rzc":` + text.JSONString(version, true) + `}}`)
}

// Opcodes of Python's pickle, of protocol 5 at most.
const (
	proto       = "\x80\x05"
	stop        = "."
	emptyDict   = "}"
	mark        = "("
	tuple       = "t"
	setItems    = "u"
	reduce      = "R"
	stackGlobal = "\x93"
	nextBuffer  = "\x97"
	newFalse    = "\x89"
	binUnicode  = "X" // and four bytes of length
	long1       = "\x8a\x08"
)

// skeletonOf is the table of references and a pickle: a dictionary of tensors, each by the function that the Python package
// has for it. docs/format.md describes the table; the function's name and arguments never change.
func skeletonOf(tensors []tensor) []byte {
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(tensors)))
	for row := range tensors {
		out = binary.LittleEndian.AppendUint32(out, uint32(row)<<2) // the storage of that block
	}
	add := func(parts ...string) {
		for _, part := range parts {
			out = append(out, part...)
		}
	}
	add(proto, emptyDict, mark)
	for _, each := range tensors {
		add(unicode(each.name))
		add(unicode("ray_zerocopy.graph.rebuild"), unicode("_dense_tensor"), stackGlobal)
		add(mark, nextBuffer, unicode("torch"), unicode(each.dtype), stackGlobal, mark)
		for _, n := range each.shape {
			out = binary.LittleEndian.AppendUint64(append(out, long1...), n)
		}
		add(tuple, newFalse, tuple, reduce)
	}
	add(setItems, stop)
	return out
}

func unicode(text string) string {
	return string(binary.LittleEndian.AppendUint32([]byte(binUnicode), uint32(len(text)))) + text
}
