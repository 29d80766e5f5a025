package safetensors

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// file is a whole file: a header and so many bytes of data.
func file(header string, data int) []byte {
	bytes := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(bytes, header...), make([]byte, data)...)
}

func read(bytes []byte) (Header, error) { return Read(bytes, int64(len(bytes))) }

func info(dtype, shape, offsets string) string {
	return fmt.Sprintf(`{"dtype":%s,"shape":%s,"data_offsets":%s}`, dtype, shape, offsets)
}

// one is a header of one tensor.
func one(dtype, shape, offsets string) string {
	return `{"a":` + info(`"`+dtype+`"`, shape, offsets) + `}`
}

// with is a header of a tensor of four bytes that has one more key.
func with(pair string) string {
	return `{"a":{` + pair + `,"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`
}

func deep(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

const (
	largest = "18446744073709551615"
	half    = "9223372036854775808"
)

// Files with a header that is taken ("") or refused with a text that has these words. Most were tried with the format's
// own implementation, which answers the same; tests/test_safetensors.py compares the two.
var headers = []struct {
	name   string
	header string
	data   int
	want   string
}{
	{"no tensors", "{}", 0, ""},
	{"padded", "{} \r\n\t", 0, ""},
	{"padded in front", "\t\n{}\r ", 0, ""},
	{"scalar", one("I32", "[]", "[0,4]"), 4, ""},
	{"matrix", one("I32", "[2,2]", "[0,16]"), 16, ""},
	{"no elements", one("I32", "[2,0]", "[0, 0]"), 0, ""},
	{"one after the other", `{"b":` + info(`"U8"`, "[3]", "[4,7]") + `,"a":` + info(`"F32"`, "[1]", "[0,4]") + `}`, 7, ""},
	{"no bytes at the same place", `{"b":` + info(`"U8"`, "[0]", "[0,0]") + `,"a":` + info(`"U8"`, "[0]", "[0,0]") + `}`, 0, ""},
	{"no name", `{"":` + info(`"U8"`, "[1]", "[0,1]") + `}`, 1, ""},

	{"nothing", "", 0, "begins with"},
	{"white space", "  ", 0, "begins with"},
	{"not UTF-8", "\xff", 0, "begins with"},
	{"not UTF-8 in a name", "{\"\xff\":1}", 0, "not UTF-8"},
	{"a surrogate in UTF-8", "{\"\xed\xa0\x80\":1}", 0, "not UTF-8"},
	{"byte order mark", "\ufeff{}", 0, "begins with"},
	{"a list", "[]", 0, "begins with"},
	{"null", "null", 0, "begins with"},
	{"only opened", "{", 0, "EOF"},
	{"more after the end", "{}x", 0, "more follows"},
	{"a null byte after the end", "{}\x00", 0, "more follows"},
	{"another object", "{}{}", 0, "more follows"},
	{"trailing comma", `{"a":` + info(`"U8"`, "[1]", "[0,1]") + `,}`, 1, "invalid character"},
	{"tensor null", `{"a":null}`, 0, "expected an object"},
	{"tensor a string", `{"a":"b"}`, 0, "expected an object"},

	{"data too long", one("I32", "[2,2]", "[0,16]"), 17, "17 bytes of data, expected the 16"},
	{"data cut off", one("I32", "[2,2]", "[0,16]"), 14, "14 bytes of data, expected the 16"},
	{"data without tensors", "{}", 1, "1 bytes of data, expected the 0"},
	{"a hole in front", one("U8", "[1]", "[1,2]"), 2, "begins at byte 1"},
	{"a hole", `{"a":` + info(`"U8"`, "[1]", "[0,1]") + `,"b":` + info(`"U8"`, "[1]", "[2,3]") + `}`, 3, `"b": begins at byte 2`},
	{"the same bytes twice", `{"a":` + info(`"U8"`, "[4]", "[0,4]") + `,"b":` + info(`"U8"`, "[4]", "[0,4]") + `}`, 4, "begins at byte 0"},
	{"overlap", `{"a":` + info(`"U8"`, "[4]", "[0,4]") + `,"b":` + info(`"U8"`, "[2]", "[3,5]") + `}`, 5, "begins at byte 3"},
	{"end before begin", `{"a":` + info(`"U8"`, "[4]", "[0,4]") + `,"b":` + info(`"U8"`, "[2]", "[4,2]") + `}`, 4, "before it begins"},
	{"too few bytes", one("I32", "[2,2]", "[0,4]"), 4, "has 4 bytes, expected 16"},
	{"too many bytes", one("I32", "[1]", "[0,8]"), 8, "has 8 bytes, expected 4"},
	{"huge end", one("U8", "["+largest+"]", "[0,"+largest+"]"), 4, "less than 2^64 bits"},
	{"offset above 64 bits", one("U8", "[0]", "[0,18446744073709551616]"), 0, "data_offsets"},

	{"shape overflows", one("I32", "[2,18446744073709551614]", "[0,16]"), 16, "less than 2^64 bits"},
	{"bits overflow", one("I32", "[2,9223372036854775807]", "[0,16]"), 16, "less than 2^64 bits"},
	{"shape overflows before a zero", one("I32", "["+half+",2,0]", "[0,0]"), 0, "less than 2^64 bits"},
	{"huge after a zero", one("I32", "[0,"+largest+"]", "[0,0]"), 0, ""},
	{"huge before a zero", one("I32", "["+largest+",0]", "[0,0]"), 0, ""},
	{"dimension above 64 bits", one("I32", "[18446744073709551616,0]", "[0,0]"), 0, "shape"},
	{"dimension negative", one("I32", "[-1]", "[0,0]"), 0, "shape"},
	{"dimension minus zero", one("I32", "[-0]", "[0,0]"), 0, "shape"},
	{"dimension a fraction", one("I32", "[1.0]", "[0,4]"), 4, "shape"},
	{"dimension an exponent", one("I32", "[1e0]", "[0,4]"), 4, "shape"},
	{"dimension with a leading zero", one("I32", "[01]", "[0,4]"), 4, "shape"},
	{"dimension a string", one("I32", `["1"]`, "[0,4]"), 4, "shape"},
	{"dimension null", one("I32", "[null]", "[0,4]"), 4, "shape"},
	{"shape null", one("I32", "null", "[0,4]"), 4, "shape"},
	{"shape a string", one("I32", `""`, "[0,4]"), 4, "shape"},
	{"shape an object", one("I32", "{}", "[0,4]"), 4, "shape"},
	{"one offset", one("I32", "[1]", "[4]"), 4, "1 numbers, expected 2"},
	{"three offsets", one("I32", "[1]", "[0,4,4]"), 4, "3 numbers, expected 2"},
	{"offsets an object", one("I32", "[1]", "{}"), 4, "data_offsets"},

	{"two halves of a byte", one("F4", "[1,2]", "[0,1]"), 1, ""},
	{"three halves of a byte", one("F4", "[1,3]", "[0,1]"), 1, "12 bits, expected whole bytes"},
	{"four times six bits", one("F6_E2M3", "[4]", "[0,3]"), 3, ""},
	{"twice six bits", one("F6_E3M2", "[2]", "[0,1]"), 1, "12 bits, expected whole bytes"},
	{"unknown dtype", one("F33", "[1]", "[0,4]"), 4, "found F33"},
	{"dtype in small letters", one("f32", "[1]", "[0,4]"), 4, "found f32"},
	{"dtype null", `{"a":` + info("null", "[1]", "[0,4]") + `}`, 4, "dtype"},
	{"dtype a list", `{"a":` + info(`["F32"]`, "[1]", "[0,4]") + `}`, 4, "dtype"},
	{"dtype an object", `{"a":` + info(`{"F32":null}`, "[1]", "[0,4]") + `}`, 4, ""},
	{"dtype an object of an object", `{"a":` + info(`{"F32":{}}`, "[1]", "[0,4]") + `}`, 4, "dtype"},
	{"dtype an object of nothing", `{"a":` + info(`{}`, "[1]", "[0,4]") + `}`, 4, "dtype"},
	{"dtype an object of two", `{"a":` + info(`{"F32":null,"F32":null}`, "[1]", "[0,4]") + `}`, 4, "dtype"},
	{"dtype an object of an unknown", `{"a":` + info(`{"F33":null}`, "[1]", "[0,4]") + `}`, 4, "dtype"},

	{"key missing", `{"a":{"dtype":"U8","shape":[0]}}`, 0, `"data_offsets" is missing`},
	{"key twice", with(`"dtype":"F32"`), 4, `"dtype" occurs twice`},
	{"key escaped", `{"a":{"\u0064type":"F32","shape":[1],"data_offsets":[0,4]}}`, 4, ""},
	{"key in capitals", `{"a":{"Dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4, `"dtype" is missing`},
	{"another key", with(`"x":[1.5,{"y":null,"y":true},"z"]`), 4, ""},
	{"another key twice", with(`"x":1,"x":2`), 4, ""},
	{"a tensor as a list", `{"a":["F32",[1],[0,4]]}`, 4, ""},
	{"a list too short", `{"a":["F32",[1]]}`, 4, "data_offsets"},
	{"a list too long", `{"a":["F32",[1],[0,4],1]}`, 4, "expected ]"},
	{"a name twice", `{"a":` + info(`"F32"`, "[1]", "[0,9]") + `,"a":` + info(`"F32"`, "[1]", "[0,4]") + `}`, 4, ""},
	{"a name twice, escaped", `{"a":` + info(`"F32"`, "[1]", "[0,9]") + `,"\u0061":` + info(`"F32"`, "[1]", "[0,4]") + `}`, 4, ""},
	{"a name twice, the first of no dtype", `{"a":` + info(`"X"`, "[1]", "[0,4]") + `,"a":` + info(`"F32"`, "[1]", "[0,4]") + `}`, 4, "dtype"},

	{"metadata", `{"__metadata__":{"format":"pt","":""}}`, 0, ""},
	{"metadata escaped", `{"\u005f_metadata__":{"format":"pt"}}`, 0, ""},
	{"metadata null", `{"__metadata__":null}`, 0, ""},
	{"metadata twice", `{"__metadata__":null,"__metadata__":{}}`, 0, `"__metadata__" occurs twice`},
	{"metadata a list", `{"__metadata__":[]}`, 0, "expected an object"},
	{"metadata of a number", `{"__metadata__":{"a":1}}`, 0, `"a": found 1`},
	{"metadata of null", `{"__metadata__":{"a":null}}`, 0, `"a": found <nil>`},
	{"metadata of an object", `{"__metadata__":{"a":{}}}`, 0, `"a": found {`},
	{"metadata with a key twice", `{"__metadata__":{"a":"b","a":"c"}}`, 0, ""},

	{"lists in each other", with(`"x":` + deep(125)), 4, ""},
	{"too many lists in each other", with(`"x":` + deep(126)), 4, "nested more than 127 deep"},
	{"a million lists", with(`"x":` + deep(1<<20)), 4, "nested more than 127 deep"},
	{"a million lists in a shape", `{"a":{"shape":` + deep(1<<20), 4, "shape"},
	{"a number too large", with(`"x":1e400`), 4, "range"},
	{"a number too small", with(`"x":-1e-400`), 4, ""},
	{"zero with a large exponent", with(`"x":0e400`), 4, ""},
	{"an integer of many digits", with(`"x":123456789012345678901234567890`), 4, ""},
	{"no number", with(`"x":-`), 4, "invalid character"},
	{"an unknown word", with(`"x":tru`), 4, "invalid character"},
	{"half a pair", with(`"x":"\ud800"`), 4, "pair of surrogates"},
	{"half a pair and more", with(`"x":"\ud800\n"`), 4, "pair of surrogates"},
	{"two first halves", with(`"x":"\ud800\ud800"`), 4, "pair of surrogates"},
	{"the second half", with(`"x":"\udc00"`), 4, "pair of surrogates"},
	{"a pair", with(`"x":"\uD800\uDC00\\ud800"`), 4, ""},
	{"half an escape", with(`"x":"\ud8"`), 4, "invalid character"},
	{"an unknown escape", with(`"x":"\x"`), 4, "invalid character"},
	{"a control character", with("\"x\":\"\n\""), 4, "invalid character"},
	{"a null character", with(`"x":"\u0000"`), 4, ""},
}

func TestHeadersAreTakenAndRefusedAsByTheFormatsOwnReader(t *testing.T) {
	for _, test := range headers {
		t.Run(test.name, func(t *testing.T) {
			_, err := read(file(test.header, test.data))
			switch {
			case test.want == "" && err != nil:
				t.Fatal(err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Fatalf("%v, want %q", err, test.want)
			case err != nil && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrDamaged):
				t.Fatal(err)
			}
		})
	}
}

func TestLengthsAreCheckedFirst(t *testing.T) {
	const text = `{"test":{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}`
	length := func(n uint64) []byte { return append(binary.LittleEndian.AppendUint64(nil, n), text...) }
	for _, test := range []struct {
		name  string
		bytes []byte
		size  int64
		want  error
	}{
		{"nothing", nil, 0, ErrForeign},
		{"seven bytes", make([]byte, 7), 7, ErrForeign},
		{"a length alone", length(60)[:8], 8, ErrDamaged},
		{"longer than the file", length(61), 68, ErrDamaged},
		{"longer than what is at hand", length(61), 1 << 20, ErrDamaged},
		{"at the limit", length(MaxHeader), 68, ErrDamaged},
		{"above the limit", length(MaxHeader + 1), 1 << 40, ErrForeign},
		{"huge", length(0xffffff000000003c), 68, ErrForeign},
		{"the largest", length(1<<64 - 1), 1<<63 - 1, ErrForeign},
		{"zip", []byte("PK\x03\x04\x00\x00\x08\x08 and so on"), 20, ErrForeign},
		{"data not at hand", length(60), 68 + 16, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := Read(test.bytes, test.size); !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
		})
	}
}

func TestEveryDtypeHasItsSize(t *testing.T) {
	for bits, dtypes := range map[int][]string{
		8:  {"BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"},
		4:  {"F4"},
		6:  {"F6_E2M3", "F6_E3M2"},
		16: {"I16", "U16", "F16", "BF16"},
		32: {"I32", "U32", "F32"},
		64: {"I64", "U64", "F64", "C64"},
	} {
		for _, dtype := range dtypes {
			if _, err := read(file(one(dtype, "[2,4]", fmt.Sprintf("[0,%d]", bits)), bits)); err != nil {
				t.Errorf("%s: %v", dtype, err)
			}
		}
	}
}

func TestHeaderIsInTheOrderOfTheData(t *testing.T) {
	text := `{"c":` + info(`"U8"`, "[3]", "[4,7]") + `,"__metadata__":{"k":"v<"},"b":` + info(`"F4"`, "[0]", "[4,4]") +
		`,"a":` + info(`"U8"`, "[0,5]", "[4,4]") + `,"\u00fc\u0000\ud83d\ude00":` + info(`"F32"`, "[]", "[0,4]") + `}`
	header, err := read(file(text, 7))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tensor := range header.Tensors {
		names = append(names, tensor.Name)
	}
	if want := []string{"ü\x00😀", "a", "b", "c"}; !slices.Equal(names, want) {
		t.Fatalf("%q, want %q", names, want)
	}
	got, err := header.JSON()
	want := fmt.Sprintf(`{"metadata":{"k":"v\u003c"},"tensors":[{"name":"ü\u0000😀","dtype":"F32","shape":[],"begin":0,"end":4},`+
		`{"name":"a","dtype":"U8","shape":[0,5],"begin":4,"end":4},{"name":"b","dtype":"F4","shape":[0],"begin":4,"end":4},`+
		`{"name":"c","dtype":"U8","shape":[3],"begin":4,"end":7}],"data":%d}`, 8+len(text))
	if err != nil || got != want {
		t.Fatalf("%s, %v, want\n%s", got, err, want)
	}
	empty, err := read(file("{}", 0))
	if got, _ := empty.JSON(); err != nil || got != `{"metadata":{},"tensors":[],"data":10}` {
		t.Fatal(got, err)
	}
}

func TestErrorsStayShort(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for _, header := range []string{
		`{"` + long + `":` + info(`"U8"`, "[1]", "[1,2]") + `}`,
		`{"` + long + `":` + info(`"`+long+`"`, "[1]", "[0,1]") + `}`,
		`{"a":{"` + long + `":1e999}}`,
		`{"__metadata__":{"` + long + `":null}}`,
		`{"__metadata__":"` + long + `"}`,
		one("U8", "[1"+strings.Repeat(",1", 1<<20)+"]", "[0,2]"),
	} {
		if _, err := read(file(header, 2)); err == nil || len(err.Error()) > 1000 {
			t.Errorf("%.2000v", err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	for _, test := range headers {
		if len(test.header) < 1000 {
			f.Add(file(test.header, test.data))
		}
	}
	f.Fuzz(func(t *testing.T, bytes []byte) {
		header, err := read(bytes)
		if err != nil {
			if !errors.Is(err, ErrForeign) && !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		end := uint64(0)
		for _, tensor := range header.Tensors {
			if tensor.Begin != end || tensor.End < end {
				t.Fatal(header)
			}
			end = tensor.End
		}
		if header.Data < 0 || header.Data > int64(len(bytes)) || end != uint64(len(bytes))-uint64(header.Data) {
			t.Fatal(header)
		}
		if _, err := header.JSON(); err != nil {
			t.Fatal(err)
		}
	})
}
