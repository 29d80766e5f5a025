package text

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// An Object is a JSON object, in its own order.
type Object []Field

// A Field is a key of an object, and its value: nil, bool, string, int, int64, uint64, float64, json.Number, a list ([]any) or an
// Object.
type Field struct {
	Key   string
	Value any
}

// Get returns the value of a key, nil if there is none.
func (o Object) Get(key string) any {
	for _, field := range o {
		if field.Key == key {
			return field.Value
		}
	}
	return nil
}

// List makes a list of what may stand in one.
func List[T any](items []T) []any {
	list := make([]any, len(items))
	for i, item := range items {
		list[i] = item
	}
	return list
}

// Parse reads a JSON text. Of a key that an object has twice, the last value counts, at the place of the first.
func Parse(data []byte) (any, error) {
	if !json.Valid(data) { // which also bounds how deep things lie in each other
		return nil, errors.New("no JSON")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	return parse(decoder)
}

func parse(decoder *json.Decoder) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		list := []any{}
		for decoder.More() {
			item, err := parse(decoder)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		_, err = decoder.Token()
		return list, err
	case json.Delim('{'):
		object, places := Object{}, map[string]int{}
		for decoder.More() {
			key, err := decoder.Token()
			if err != nil {
				return nil, err
			}
			value, err := parse(decoder)
			if err != nil {
				return nil, err
			}
			name := key.(string)
			if at, again := places[name]; again {
				object[at].Value = value
				continue
			}
			places[name] = len(object)
			object = append(object, Field{name, value})
		}
		_, err = decoder.Token()
		return object, err
	}
	return token, nil
}

// WriteJSON writes a value as Python's json.dumps(value, indent=2) does, and a line break.
func WriteJSON(out io.Writer, value any) error {
	var text strings.Builder
	write(&text, value, "\n")
	_, err := fmt.Fprintln(out, text.String())
	return err
}

func write(out *strings.Builder, value any, line string) {
	within := line + "  "
	switch value := value.(type) {
	case nil:
		out.WriteString("null")
	case string:
		out.WriteString(JSONString(value, true))
	case float64:
		out.WriteString(jsonFloat(value))
	case json.Number:
		if f, err := value.Float64(); err == nil && strings.ContainsAny(value.String(), ".eE") {
			out.WriteString(Float(f))
		} else {
			out.WriteString(value.String())
		}
	case Object:
		writeAll(out, "{", "}", line, len(value), func(i int) {
			out.WriteString(JSONString(value[i].Key, true) + ": ")
			write(out, value[i].Value, within)
		})
	case []any:
		writeAll(out, "[", "]", line, len(value), func(i int) { write(out, value[i], within) })
	default:
		fmt.Fprint(out, value)
	}
}

func writeAll(out *strings.Builder, open, end, line string, count int, item func(int)) {
	out.WriteString(open)
	for i := range count {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(line + "  ")
		item(i)
	}
	if count > 0 {
		out.WriteString(line)
	}
	out.WriteString(end)
}

// jsonNames has what Python's json calls what is no number for JSON, by Float's name.
var jsonNames = map[string]string{"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

func jsonFloat(f float64) string { return jsonNamed(Float(f)) }

// JSONFloat32 returns the JSON for a number of 32 bits, with as many digits as tell it from the others.
func JSONFloat32(f float32) string { return jsonNamed(Float32(f)) }

func jsonNamed(text string) string {
	if name, special := jsonNames[text]; special {
		return name
	}
	return text
}

// JSONString returns a JSON string as Python writes one: in ASCII, or with other characters as they are.
func JSONString(text string, ascii bool) string {
	var out strings.Builder
	out.WriteByte('"')
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1: // a byte of a path that is no character
			fmt.Fprintf(&out, `\udc%02x`, text[i])
		case r == '"' || r == '\\':
			out.WriteString(`\` + string(r))
		case strings.ContainsRune("\n\r\t\b\f", r):
			out.WriteString(map[rune]string{'\n': `\n`, '\r': `\r`, '\t': `\t`, '\b': `\b`, '\f': `\f`}[r])
		case r < ' ', ascii && r > '~' && r < 0x10000:
			fmt.Fprintf(&out, `\u%04x`, r)
		case ascii && r >= 0x10000:
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			out.WriteRune(r)
		}
		i += size
	}
	out.WriteByte('"')
	return out.String()
}

// Float returns a number as Python's repr has it: 1.0, 0.1, 1e-05, 1e+16, nan, inf.
func Float(f float64) string { return float(f, 64) }

// Float32 returns a number with as many digits as tell it from the other numbers of 32 bits.
func Float32(f float32) string { return float(float64(f), 32) }

func float(f float64, bits int) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if size := math.Abs(f); size != 0 && (size < 1e-4 || size >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, bits)
	}
	text := strconv.FormatFloat(f, 'f', -1, bits)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}
