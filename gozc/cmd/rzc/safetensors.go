package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/safetensors"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

// dtypes of the format and torch's, in the order in which tensors stand in a file.
var dtypes = [][2]string{
	{"U64", "uint64"}, {"I64", "int64"}, {"F64", "float64"}, {"C64", "complex64"},
	{"F32", "float32"}, {"U32", "uint32"}, {"I32", "int32"},
	{"BF16", "bfloat16"}, {"F16", "float16"}, {"U16", "uint16"}, {"I16", "int16"},
	{"F8_E5M2FNUZ", "float8_e5m2fnuz"}, {"F8_E4M3FNUZ", "float8_e4m3fnuz"}, {"F8_E8M0", "float8_e8m0fnu"},
	{"F8_E4M3", "float8_e4m3fn"}, {"F8_E5M2", "float8_e5m2"},
	{"I8", "int8"}, {"U8", "uint8"}, {packed, "float4_e2m1fn_x2"}, {"BOOL", "bool"},
}

// packed holds two values in a byte: torch counts bytes, the format counts values.
const packed = "F4"

// ordered is a tensor with the place of its dtype.
type ordered struct {
	*tensor
	dtype int
}

// writeSafetensors writes what state_dict has. Tensors that are the same elements of the same memory are written once,
// under the name that sorts first; the others' names stand in the metadata, each with that name.
func writeSafetensors(path string, found *weights) error {
	var all []ordered
	for i := range found.tensors {
		each := &found.tensors[i]
		if !each.persistent {
			continue
		}
		at := slices.IndexFunc(dtypes, func(pair [2]string) bool { return pair[1] == each.dtype })
		switch {
		case each.name == "__metadata__" || !utf8.ValidString(each.name):
			return failed("%s: no tensor can have the name %s", text.Quote(path), text.Quote(each.name))
		case at < 0:
			names := make([]string, len(dtypes))
			for i, pair := range dtypes {
				names[i] = pair[1]
			}
			return failed("%s: tensor %s is %s, and the format holds %s",
				text.Quote(path), text.Quote(each.name), each.dtype, strings.Join(names, ", "))
		case dtypes[at][0] == packed && len(each.shape) == 0:
			return failed("%s: tensor %s is two packed values without a dimension to count them in",
				text.Quote(path), text.Quote(each.name))
		}
		if err := each.readable(); err != nil {
			return failed("%s: %w", text.Quote(path), err)
		}
		all = append(all, ordered{each, at})
	}
	slices.SortStableFunc(all, func(a, b ordered) int { return cmp.Compare(a.name, b.name) })
	var kept []ordered
	var notes [][2]string
	first := map[string]string{}
	for _, each := range all {
		same := fmt.Sprint(each.place, each.dtype, each.shape, each.strides())
		if name, tied := first[same]; tied && each.size > 0 {
			notes = append(notes, [2]string{each.name, name})
			continue
		}
		first[same] = each.name
		kept = append(kept, each)
	}
	slices.SortStableFunc(kept, func(a, b ordered) int { return cmp.Compare(a.dtype, b.dtype) })
	head, err := headOf(path, kept, notes)
	if err != nil {
		return err
	}
	return writeFile(path, func(write func([]byte) error) error {
		if err := write(head); err != nil {
			return err
		}
		for _, each := range kept {
			if err := each.write(write); err != nil {
				return err
			}
		}
		return found.sound()
	})
}

func headOf(path string, kept []ordered, notes [][2]string) ([]byte, error) {
	var fields []string
	if len(notes) > 0 {
		pairs := make([]string, len(notes))
		for i, note := range notes {
			pairs[i] = text.JSONString(note[0], false) + ":" + text.JSONString(note[1], false)
		}
		fields = append(fields, `"__metadata__":{`+strings.Join(pairs, ",")+"}")
	}
	end := uint64(0)
	for _, each := range kept {
		name, begin := dtypes[each.dtype][0], end
		end += each.size
		shape := make([]string, len(each.shape))
		for i, n := range each.shape {
			if name == packed && i == len(shape)-1 {
				n *= 2
			}
			shape[i] = fmt.Sprint(n)
		}
		fields = append(fields, fmt.Sprintf(`%s:{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]}`,
			text.JSONString(each.name, false), name, strings.Join(shape, ","), begin, end))
	}
	header := "{" + strings.Join(fields, ",") + "}"
	header += strings.Repeat(" ", -len(header)&7)
	if len(header) > safetensors.MaxHeader {
		return nil, failed("%s: its header has %s bytes, and readers take %s",
			text.Quote(path), text.Number(int64(len(header))), text.Number(safetensors.MaxHeader))
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...), nil
}

// write hands over the elements, one after the other.
func (t *tensor) write(write func([]byte) error) error {
	if t.contiguous() {
		return write(t.bytes())
	}
	const most = 1 << 20
	size := int(t.size / elements(t.shape))
	piece := make([]byte, 0, most)
	walk := t.walk(size)
	for element := walk.next(); element != nil; element = walk.next() {
		if len(piece)+size > most {
			if err := write(piece); err != nil {
				return err
			}
			piece = piece[:0]
		}
		piece = append(piece, element...)
	}
	return write(piece)
}

// absolute returns a path from the root on, as it stands in errors.
func absolute(path string) string {
	if whole, err := filepath.Abs(path); err == nil {
		return whole
	}
	return path
}
