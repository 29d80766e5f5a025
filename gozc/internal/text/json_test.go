package text

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

// What Python 3.12 gives for json.dumps(json.loads(...), indent=2).
func TestJSONIsWrittenAsByPython(t *testing.T) {
	value, err := Parse([]byte(`{"b": [1, 2.50, 1e3, [], {}], "a": "t\u00fcr \ud83d\ude00 \u007f\"\\\n\u0001", "b": {"x": null, "y": [true]}}`))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := WriteJSON(&out, value); err != nil {
		t.Fatal(err)
	}
	want := `{
  "b": {
    "x": null,
    "y": [
      true
    ]
  },
  "a": "t\u00fcr \ud83d\ude00 \u007f\"\\\n\u0001"
}
`
	if out.String() != want {
		t.Errorf("%s, want %s", out.String(), want)
	}
	out.Reset()
	_ = WriteJSON(&out, []any{json.Number("2.50"), json.Number("1e3"), json.Number("-0"), []any{}, Object{}, math.NaN(), math.Inf(-1), math.Inf(1), 1.5, "caf\xe9"})
	want = "[\n  2.5,\n  1000.0,\n  -0,\n  [],\n  {},\n  NaN,\n  -Infinity,\n  Infinity,\n  1.5,\n  \"caf\\udce9\"\n]\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	if got := JSONString("tür\x7f\x00\b", false); got != "\"tür\x7f\\u0000\\b\"" {
		t.Error(got)
	}
}

func TestJSONThatIsNoneIsAnError(t *testing.T) {
	for _, text := range []string{"", "{", `{"a"}`, "[1] 2", strings.Repeat("[", 1<<20)} {
		if value, err := Parse([]byte(text)); err == nil {
			t.Errorf("%.20q: %v", text, value)
		}
	}
}

func TestFloatsAreWrittenAsByPython(t *testing.T) {
	for want, f := range map[string]float64{
		"0.0": 0, "-0.0": math.Copysign(0, -1), "1.0": 1, "0.1": 0.1, "0.0001": 1e-4, "1e-05": 1e-5, "1e+16": 1e16,
		"1234567890123456.0": 1234567890123456, "1.5e+300": 1.5e300, "nan": math.NaN(), "inf": math.Inf(1), "-inf": math.Inf(-1),
	} {
		if got := Float(f); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := Float32(0.1); got != "0.1" {
		t.Error(got)
	}
}

func TestTables(t *testing.T) {
	got := Table([]string{"NAME", "SIZE"}, [][]string{{"tür", "1.0 B"}, {"longer", "12.0 B"}, {"", ""}}, "SIZE")
	if want := "NAME      SIZE\ntür      1.0 B\nlonger  12.0 B\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
