package pickle

import (
	"errors"
	"strings"
	"testing"
)

func TestPickles(t *testing.T) {
	for _, test := range []struct {
		name, data, want string // want: part of the error
		buffers          int
	}{
		{name: "None", data: "\x80\x05N."},
		{name: "framed text", data: "\x80\x05\x95\x08\x00\x00\x00\x00\x00\x00\x00\x8c\x04text\x94."},
		{name: "two buffers", data: "\x80\x05(\x97\x97\x98t\x94.", buffers: 2},
		{name: "memo", data: "\x80\x05Kaq\x00r\x01\x00\x00\x00h\x00."},
		{name: "empty", data: "", want: "does not end"},
		{name: "no end", data: "\x80\x05N", want: "does not end"},
		{name: "goes on", data: "\x80\x05N.N", want: "ends at 4 of 5"},
		{name: "text opcode", data: "\x80\x05I1\n.", want: "byte 2 is 0x49"},
		{name: "no opcode", data: "\xff", want: "byte 0 is 0xff"},
		{name: "cut off", data: "\x80\x05J\x01\x02", want: "cut off"},
		{name: "long bytearray", data: "\x80\x05\x96\x00\x00\x00\x00\x01\x00\x00\x00.", want: "counts 4294967296 bytes, where 1"},
		{name: "longest text", data: "\x80\x05\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", want: "where 1 are left"},
		{name: "long frame", data: "\x80\x05\x95\x02\x00\x00\x00\x00\x00\x00\x00.", want: "counts 2 bytes, where 1"},
		{name: "far memo", data: "\x80\x05N\x94r\x00\x00\x00\x7f.", want: "entry 2130706432 of the memo at 4, where 1"},
		{name: "next memo", data: "\x80\x05Nq\x01.", want: "entry 1 of the memo"},
	} {
		buffers, err := Check([]byte(test.data))
		if test.want == "" && (err != nil || buffers != test.buffers) {
			t.Errorf("%s: %d buffers, %v", test.name, buffers, err)
		}
		if test.want != "" && (!errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, seed := range []string{"\x80\x05N.", "\x80\x05\x95\x01\x00\x00\x00\x00\x00\x00\x00.", "\x80\x05(\x97\x98t\x94."} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if buffers, err := Check(data); buffers < 0 || buffers > len(data) || (err != nil && buffers != 0) {
			t.Fatal(buffers, err)
		}
	})
}
