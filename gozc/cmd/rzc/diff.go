package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

var diff = &verb{
	name:  "diff",
	short: "say which tensors of two files differ, and by how much",
	description: `Compares the tensors of two files by name: model files, .safetensors files, or images in this node's store (store:...).
It lists those that only one has, those of another shape or dtype, and those with other values: how many values differ, and
the largest difference. Tensors of two dtypes are compared by value as well. Nothing else of a model file is compared.

The exit code is 1 if something differs.
`,
	operands: []string{"A", "B"},
	options:  map[string]string{"--json": "the same for programs"},
	run: func(given given, out io.Writer) error {
		a, err := open(given.operands[0])
		if err != nil {
			return err
		}
		defer a.close()
		b, err := open(given.operands[1])
		if err != nil {
			return err
		}
		defer b.close()
		found := differences(a, b)
		if given.has("--json") {
			err = text.WriteJSON(out, diffJSON(a, b, found))
		} else {
			err = diffText(out, a, b, found)
		}
		for _, each := range []*weights{a, b} {
			if err == nil {
				err = each.sound()
			}
		}
		if err == nil && len(found) > 0 {
			err = errDone
		}
		return err
	},
}

// A difference is what is not the same of the tensors of one name.
type difference struct {
	name string
	a, b *tensor // nil where there is none

	compared bool   // whether the values were
	values   uint64 // how many differ
	largest  float64
}

func differences(a, b *weights) []difference {
	others := map[string]*tensor{}
	for i := len(b.tensors) - 1; i >= 0; i-- {
		others[b.tensors[i].name] = &b.tensors[i]
	}
	var found []difference
	seen := map[string]bool{}
	for i := range a.tensors {
		one := &a.tensors[i]
		if seen[one.name] {
			continue
		}
		seen[one.name] = true
		if each := (difference{name: one.name, a: one, b: others[one.name]}); each.compare() {
			found = append(found, each)
		}
	}
	for i := range b.tensors {
		if other := &b.tensors[i]; !seen[other.name] {
			seen[other.name] = true
			found = append(found, difference{name: other.name, b: other})
		}
	}
	return found
}

// compare tells whether there is a difference, and fills in the rest.
func (d *difference) compare() bool {
	if d.b == nil {
		return true
	}
	if equalBytes(d.a, d.b) {
		return false
	}
	one, known := codecs[d.a.dtype]
	other, alsoKnown := codecs[d.b.dtype]
	same := d.a.dtype == d.b.dtype
	if !sameShape(d.a, d.b) || d.a.readable() != nil || !known || !alsoKnown || !same && (one.real == nil || other.real == nil) {
		return true
	}
	d.compared = true
	own, others := d.a.walk(one.size), d.b.walk(other.size)
	for x := own.next(); x != nil; x = own.next() {
		y := others.next()
		if same && string(x) == string(y) {
			continue
		}
		gap := one.apart(x, other, y)
		if same || gap > 0 {
			d.values++
			d.largest = max(d.largest, gap)
		}
	}
	return d.values > 0 || !same
}

// apart returns how far an element is from one that another codec reads.
func (c codec) apart(x []byte, other codec, y []byte) float64 {
	if c.real != nil {
		return apart(c.real(x), other.real(y))
	}
	half := c.size / 2
	read := float32At
	if half == 8 {
		read = float64At
	}
	return math.Hypot(apart(read(x), read(y)), apart(read(x[half:]), read(y[half:])))
}

func sameShape(a, b *tensor) bool { return slices.Equal(a.shape, b.shape) }

// apart returns how far two numbers are from each other: infinitely where one is infinite or no number, and the other is
// not the same.
func apart(x, y float64) float64 {
	switch {
	case x == y || math.IsNaN(x) && math.IsNaN(y):
		return 0
	case math.IsNaN(x) || math.IsNaN(y):
		return math.Inf(1)
	}
	return math.Abs(x - y)
}

// diffText gives the differences for people.
func diffText(out io.Writer, a, b *weights, found []difference) error {
	names := map[string]bool{}
	for _, each := range slices.Concat(a.tensors, b.tensors) {
		names[each.name] = true
	}
	if len(found) > 0 {
		rows := make([][]string, len(found))
		for i, each := range found {
			rows[i] = []string{text.Printable(each.name), each.said(a, b)}
		}
		fmt.Fprintln(out, text.Table([]string{"TENSOR", "DIFFERENCE"}, rows)+"\n")
	}
	_, err := fmt.Fprintf(out, "%s of %s tensors differ\n", text.Number(int64(len(found))), text.Number(int64(len(names))))
	return err
}

func (d *difference) said(a, b *weights) string {
	switch {
	case d.b == nil:
		return "only in " + a.path
	case d.a == nil:
		return "only in " + b.path
	}
	var parts []string
	if !sameShape(d.a, d.b) {
		parts = append(parts, "shape: "+dimensions(d.a.shape)+" and "+dimensions(d.b.shape))
	}
	if d.a.dtype != d.b.dtype {
		parts = append(parts, "dtype: "+d.a.dtype+" and "+d.b.dtype)
	}
	switch {
	case d.compared && d.values > 0:
		parts = append(parts, fmt.Sprintf("%s of %s values, by up to %s",
			text.Number(int64(d.values)), text.Number(int64(elements(d.a.shape))), rounded(d.largest)))
	case d.compared:
		parts = append(parts, "the same values")
	case len(parts) == 0:
		parts = append(parts, "other bytes")
	}
	return text.Printable(strings.Join(parts, "; "))
}

func diffJSON(a, b *weights, found []difference) text.Object {
	list := []any{}
	for _, each := range found {
		object := text.Object{{Key: "name", Value: each.name}, {Key: "a", Value: kindOf(each.a)}, {Key: "b", Value: kindOf(each.b)}}
		if each.compared {
			object = append(object, text.Field{Key: "values", Value: each.values}, text.Field{Key: "largest", Value: each.largest})
		}
		list = append(list, object)
	}
	return text.Object{{Key: "a", Value: a.path}, {Key: "b", Value: b.path}, {Key: "differences", Value: list}}
}

func kindOf(t *tensor) any {
	if t == nil {
		return nil
	}
	return text.Object{{Key: "dtype", Value: t.dtype}, {Key: "shape", Value: text.List(t.shape)}}
}
