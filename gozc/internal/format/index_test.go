package format

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func entry(name, dtype, shape, stride, segment, offset, persistent string) string {
	return fmt.Sprintf(`{"name":%s,"dtype":%s,"shape":%s,"stride":%s,"segment":%s,"offset":%s,"persistent":%s}`,
		name, dtype, shape, stride, segment, offset, persistent)
}

// tensor is an index of one tensor in one segment of 100 bytes.
func tensor(dtype, shape, stride, segment, offset string) string {
	return `{"tensors":[` + entry(`"a"`, `"`+dtype+`"`, shape, stride, segment, offset, "true") + `]}`
}

func TestIndexChecksEveryTensor(t *testing.T) {
	segments := []Range{{0, 100}}
	const max = "9223372036854775807"
	for _, test := range []struct {
		name  string
		index string
		sound bool
	}{
		{"no tensors", `{"tensors":[]}`, true},
		{"white space", " {\n\t\"tensors\" : [ ] }\r\n", true},
		{"fits exactly", tensor("float32", "[25]", "[1]", "0", "0"), true},
		{"one element too many", tensor("float32", "[26]", "[1]", "0", "0"), false},
		{"one byte too far", tensor("float32", "[25]", "[1]", "0", "1"), false},
		{"scalar at the end", tensor("float64", "[]", "[]", "0", "92"), true},
		{"scalar past the end", tensor("float64", "[]", "[]", "0", "93"), false},
		{"expanded", tensor("float64", "[1000000]", "[0]", "0", "92"), true},
		{"transposed", tensor("int8", "[10,10]", "[1,10]", "0", "0"), true},
		{"stride past the end", tensor("int8", "[10,10]", "[1,11]", "0", "1"), false},
		{"no elements at the end", tensor("int8", "[0]", "[1]", "0", "100"), true},
		{"no elements past the end", tensor("int8", "[0]", "[1]", "0", "101"), false},
		{"empty storage", tensor("int8", "[3,0]", "[1,1]", "-1", "0"), true},
		{"elements in an empty storage", tensor("int8", "[1]", "[1]", "-1", "0"), false},
		{"offset in an empty storage", tensor("int8", "[0]", "[1]", "-1", "1"), false},
		{"segment -2", tensor("int8", "[0]", "[1]", "-2", "0"), false},
		{"segment past the table", tensor("int8", "[0]", "[1]", "1", "0"), false},
		{"segment huge", tensor("int8", "[0]", "[1]", max, "0"), false},
		{"offset negative", tensor("int8", "[1]", "[1]", "0", "-1"), false},
		{"offset huge", tensor("int8", "[1]", "[1]", "0", max), false},
		{"shape negative", tensor("int8", "[-1]", "[1]", "0", "0"), false},
		{"stride negative", tensor("int8", "[1]", "[-1]", "0", "0"), false},
		{"negative behind a zero", tensor("int8", "[0,-1]", "[1,1]", "0", "0"), false},
		{"shape overflows", tensor("int8", "["+max+","+max+"]", "[0,0]", "0", "0"), false},
		{"shape overflows behind a zero", tensor("int8", "[0,"+max+","+max+"]", "[1,1,1]", "0", "0"), true},
		{"stride overflows", tensor("int8", "[3]", "["+max+"]", "0", "0"), false},
		{"strides overflow together", tensor("int8", "[2,2]", "["+max+","+max+"]", "0", "0"), false},
		{"bytes overflow", tensor("complex128", "["+max+"]", "[1]", "0", "0"), false},
		{"last byte overflows", tensor("int8", "[2]", "["+max+"]", "0", "0"), false},
		{"shape and stride differ", tensor("int8", "[1,1]", "[1]", "0", "0"), false},
		{"unknown dtype", tensor("float33", "[1]", "[1]", "0", "0"), false},
		{"dtype with prefix", tensor("torch.float32", "[1]", "[1]", "0", "0"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := DecodeIndex(Head{Parts: Parts{Segments: segments, Index: []byte(test.index)}}, nil)
			if test.sound && err != nil || !test.sound && !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
		})
	}
}

func TestIndexIsStrictJSON(t *testing.T) {
	good := entry(`"a"`, `"int8"`, "[1]", "[1]", "0", "0", "true")
	for name, index := range map[string]string{
		"nothing":            "",
		"null":               "null",
		"a list":             `[]`,
		"no tensors":         `{}`,
		"null tensors":       `{"tensors":null}`,
		"tensors an object":  `{"tensors":{}}`,
		"another case":       `{"Tensors":[]}`,
		"another key":        `{"tensors":[],"more":1}`,
		"the key twice":      `{"tensors":[],"tensors":[]}`,
		"more after the end": `{"tensors":[]}{}`,
		"garbage at the end": `{"tensors":[]}x`,
		"cut off":            `{"tensors":[` + good,
		"trailing comma":     `{"tensors":[` + good + `,]}`,
		"no comma":           `{"tensors":[` + good + good + `]}`,
		"entry null":         `{"tensors":[null]}`,
		"entry empty":        `{"tensors":[{}]}`,
		"key missing":        `{"tensors":[` + strings.Replace(good, `,"persistent":true`, "", 1) + `]}`,
		"key too many":       `{"tensors":[` + strings.Replace(good, "{", `{"x":1,`, 1) + `]}`,
		"key twice":          `{"tensors":[` + strings.Replace(good, "{", `{"offset":0,`, 1) + `]}`,
		"key in capitals":    `{"tensors":[` + strings.Replace(good, `"name"`, `"Name"`, 1) + `]}`,
		"name a number":      `{"tensors":[` + entry("1", `"int8"`, "[1]", "[1]", "0", "0", "true") + `]}`,
		"name null":          `{"tensors":[` + entry("null", `"int8"`, "[1]", "[1]", "0", "0", "true") + `]}`,
		"dtype a number":     `{"tensors":[` + entry(`"a"`, "8", "[1]", "[1]", "0", "0", "true") + `]}`,
		"shape null":         `{"tensors":[` + entry(`"a"`, `"int8"`, "null", "[1]", "0", "0", "true") + `]}`,
		"shape a number":     `{"tensors":[` + entry(`"a"`, `"int8"`, "1", "[1]", "0", "0", "true") + `]}`,
		"shape nested":       `{"tensors":[` + entry(`"a"`, `"int8"`, "[[1]]", "[1]", "0", "0", "true") + `]}`,
		"shape of strings":   `{"tensors":[` + entry(`"a"`, `"int8"`, `["1"]`, "[1]", "0", "0", "true") + `]}`,
		"shape a fraction":   `{"tensors":[` + entry(`"a"`, `"int8"`, "[1.0]", "[1]", "0", "0", "true") + `]}`,
		"shape an exponent":  `{"tensors":[` + entry(`"a"`, `"int8"`, "[1e0]", "[1]", "0", "0", "true") + `]}`,
		"offset above int64": `{"tensors":[` + entry(`"a"`, `"int8"`, "[1]", "[1]", "0", "9223372036854775808", "true") + `]}`,
		"leading zero":       `{"tensors":[` + entry(`"a"`, `"int8"`, "[1]", "[1]", "0", "00", "true") + `]}`,
		"persistent 1":       `{"tensors":[` + entry(`"a"`, `"int8"`, "[1]", "[1]", "0", "0", "1") + `]}`,
		"control character":  `{"tensors":[` + entry("\"a\n\"", `"int8"`, "[1]", "[1]", "0", "0", "true") + `]}`,
		"not UTF-8":          `{"tensors":[` + entry("\"\xff\"", `"int8"`, "[1]", "[1]", "0", "0", "true") + `]}`,
		"deeply nested":      strings.Repeat("[", 1<<20),
		"deep in a shape":    `{"tensors":[{"shape":` + strings.Repeat("[", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeIndex(Head{Parts: Parts{Segments: []Range{{0, 100}}, Index: []byte(index)}}, nil)
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
		})
	}
}

func TestNamesKeepTheirCharacters(t *testing.T) {
	index := `{"tensors":[` + entry(`"\u00fc/a \"b\"\u0000ü"`, `"bool"`, "[]", "[]", "0", "7", "false") + `]}`
	tensors, err := DecodeIndex(Head{Parts: Parts{Segments: []Range{{0, 100}}, Index: []byte(index)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := tensors[0]; got.Name != "ü/a \"b\"\x00ü" || got.Length != 1 || got.Offset != 7 || got.Persistent {
		t.Fatalf("%+v", got)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add(string(sampleIndex))
	f.Add(`{"tensors":[]}`)
	f.Add(tensor("int8", "[0,9223372036854775807]", "[1,0]", "-1", "0"))
	f.Fuzz(func(t *testing.T, index string) {
		tensors, err := DecodeIndex(Head{Parts: Parts{Segments: sampleSegments, Index: []byte(index)}}, nil)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		for _, tensor := range tensors {
			var room int64
			if tensor.Segment >= 0 {
				room = sampleSegments[tensor.Segment].Length
			}
			if tensor.Offset < 0 || tensor.Length < 0 || tensor.Offset+tensor.Length > room {
				t.Fatalf("%+v is not inside of its segment", tensor)
			}
		}
	})
}

func BenchmarkIndexOf200Tensors(b *testing.B) {
	one := entry(`"encoder.layer.0.attention.self.query.weight"`, `"float32"`, "[5,5]", "[5,1]", "0", "0", "true")
	index := []byte(`{"tensors":[` + strings.Repeat(one+",", 199) + one + `]}`)
	head := Head{Parts: Parts{Segments: []Range{{0, 100}}, Index: index}}
	b.SetBytes(int64(len(index)))
	for b.Loop() {
		if _, err := DecodeIndex(head, nil); err != nil {
			b.Fatal(err)
		}
	}
}
