package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

var inspect = &verb{
	name:  "inspect",
	short: "show what a model file or a .safetensors file holds",
	description: `Shows the tensors of a model file (what wrapper.save(path) writes), of a .safetensors file, or of an image in this
node's store (store:..., see rzc store): name, dtype, shape, size, and what shares memory with what; totals by dtype; class
and models of the pipeline; version of the format.

Reads the head of the file only, and runs none of its code: a file that is not trusted can be looked at.
`,
	operands: []string{"FILE"},
	options:  map[string]string{"--json": "everything that is known, sizes in bytes"},
	run: func(given given, out io.Writer) error {
		found, err := open(given.operands[0])
		if err != nil {
			return err
		}
		defer found.close()
		if given.has("--json") {
			err = text.WriteJSON(out, plain(found))
		} else {
			_, err = fmt.Fprintln(out, strings.Join(told(found), "\n"))
		}
		if err != nil {
			return err
		}
		return found.sound()
	},
}

// saidOf is what of the writer's words people want to know, and how it is called here.
var saidOf = [][2]string{
	{"class", "class"}, {"models", "models"}, {"mode", "mode"}, {"bases", "shares weights with"},
	{"made_with", "made with"}, {"metadata", "metadata"},
}

// told gives lines for people.
func told(found *weights) []string {
	kind := found.format
	if found.version > 0 {
		kind += fmt.Sprintf(", version %d of the format", found.version)
	}
	lines := []string{fmt.Sprintf("%s: %s, %s", found.path, kind, text.Size(found.size))}
	for _, each := range saidOf {
		if value := found.about.Get(each[0]); !empty(value) {
			lines = append(lines, each[1]+": "+words(value))
		}
	}
	if len(found.tensors) == 0 {
		return append(lines, "no tensors")
	}
	groups := found.shared()
	shares := map[string][]string{}
	for _, group := range groups {
		for _, name := range group {
			shares[name] = group
		}
	}
	var rows [][]string
	for _, each := range found.tensors {
		rows = append(rows, row(each, shares[each.name]))
	}
	lines = append(lines, "", text.Table([]string{"TENSOR", "DTYPE", "SHAPE", "SIZE", "SHARES MEMORY WITH"}, rows, "SIZE"), "")
	rows = nil
	all := total{dtype: "all"}
	totals := found.totals()
	for _, each := range totals {
		rows = append(rows, each.row())
		all.tensors, all.elements, all.bytes = all.tensors+each.tensors, all.elements+each.elements, all.bytes+each.bytes
	}
	if len(totals) > 1 {
		rows = append(rows, all.row())
	}
	lines = append(lines, text.Table([]string{"DTYPE", "TENSORS", "ELEMENTS", "SIZE"}, rows, "TENSORS", "ELEMENTS", "SIZE"))
	if len(groups) > 0 {
		lines = append(lines, "(shared memory counts once)")
	}
	return lines
}

func (t total) row() []string {
	return []string{t.dtype, text.Number(int64(t.tensors)), text.Number(int64(t.elements)), text.Size(int64(t.bytes))}
}

func row(t tensor, group []string) []string {
	others := slices.DeleteFunc(slices.Clone(group[:min(2, len(group))]), func(name string) bool { return name == t.name })
	others = others[:min(1, len(others))]
	if len(group) > 2 {
		others = append(others, group[2:]...)
	}
	shares := ""
	if len(others) > 0 {
		shares = text.Printable(others[0])
	}
	if len(others) > 1 {
		shares += fmt.Sprintf(" and %d more", len(others)-1)
	}
	name := text.Printable(t.name)
	if !t.persistent {
		name += " (not in state_dict)"
	}
	if t.base >= 0 {
		name += fmt.Sprintf(" (in base %d)", t.base)
	}
	return []string{name, text.Printable(t.dtype), dimensions(t.shape), text.Size(int64(t.size)), shares}
}

func dimensions(shape []uint64) string {
	if len(shape) == 0 {
		return "scalar"
	}
	sizes := make([]string, len(shape))
	for i, n := range shape {
		sizes[i] = fmt.Sprint(n)
	}
	return strings.Join(sizes, "x")
}

// empty tells whether Python would take a value for false.
func empty(value any) bool {
	switch value := value.(type) {
	case nil:
		return true
	case bool:
		return !value
	case string:
		return value == ""
	case json.Number:
		n, err := value.Float64()
		return err == nil && n == 0
	case []any:
		return len(value) == 0
	case text.Object:
		return len(value) == 0
	}
	return false
}

// words gives a value for people: the items of a list, or the keys of an object with their values.
func words(value any) string {
	var items []string
	switch value := value.(type) {
	case text.Object:
		for _, field := range value {
			if field.Value == nil {
				items = append(items, field.Key)
			} else {
				items = append(items, field.Key+"="+word(field.Value, false))
			}
		}
	case []any:
		for _, item := range value {
			items = append(items, word(item, false))
		}
	default:
		items = []string{word(value, false)}
	}
	return text.Printable(strings.Join(items, ", "))
}

// word gives a value as Python's str does, or what stands in it as repr does.
func word(value any, inner bool) string {
	switch value := value.(type) {
	case nil:
		return "None"
	case bool:
		return map[bool]string{true: "True", false: "False"}[value]
	case string:
		if inner {
			return text.Quote(value)
		}
		return value
	case []any:
		items := make([]string, len(value))
		for i, item := range value {
			items[i] = word(item, true)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case text.Object:
		items := make([]string, len(value))
		for i, field := range value {
			items[i] = text.Quote(field.Key) + ": " + word(field.Value, true)
		}
		return "{" + strings.Join(items, ", ") + "}"
	}
	return fmt.Sprint(value)
}

// plain gives everything that is known, for JSON.
func plain(found *weights) text.Object {
	var version any
	if found.version > 0 {
		version = found.version
	}
	tensors := []any{}
	for _, each := range found.tensors {
		var base any
		if each.base >= 0 {
			base = each.base
		}
		at := each.place
		tensors = append(tensors, text.Object{
			{Key: "name", Value: each.name}, {Key: "dtype", Value: each.dtype}, {Key: "shape", Value: text.List(each.shape)},
			{Key: "nbytes", Value: each.size}, {Key: "persistent", Value: each.persistent}, {Key: "base", Value: base},
			{Key: "place", Value: []any{at.base, at.segment, at.begin, at.end}},
		})
	}
	shared := []any{}
	for _, group := range found.shared() {
		shared = append(shared, text.List(group))
	}
	totals := text.Object{}
	for _, each := range found.totals() {
		totals = append(totals, text.Field{Key: each.dtype, Value: text.Object{
			{Key: "tensors", Value: each.tensors}, {Key: "elements", Value: each.elements}, {Key: "nbytes", Value: each.bytes},
		}})
	}
	return text.Object{
		{Key: "path", Value: found.path}, {Key: "nbytes", Value: found.size}, {Key: "format", Value: found.format},
		{Key: "version", Value: version}, {Key: "about", Value: found.about}, {Key: "tensors", Value: tensors},
		{Key: "shared", Value: shared}, {Key: "totals", Value: totals},
	}
}
