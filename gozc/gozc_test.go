package gozc

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/layout"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/pickle"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/safetensors"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/shm"
)

// address pins memory for the time of a test, as Python keeps its own alive.
func address[T byte | int64](t *testing.T, memory []T) int64 {
	t.Helper()
	var pin runtime.Pinner
	pin.Pin(&memory[0])
	t.Cleanup(pin.Unpin)
	return mem.Address(memory)
}

func must(t *testing.T) func(int64, error) int64 {
	return func(value int64, err error) int64 {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func wantCode(t *testing.T, what, code string, err error) {
	t.Helper()
	if err == nil || !strings.HasPrefix(err.Error(), code+": ") {
		t.Errorf("%s: %v, want the code %q", what, err, code)
	}
}

// The calls that Python makes to write and to read an image.
func TestImageThroughAddresses(t *testing.T) {
	must := must(t)
	large, small := make([]byte, 100000), []byte("small")
	for i := range large {
		large[i] = byte(i % 253)
	}
	const count = 3
	blocks := []int64{address(t, large), 100000, address(t, small), 5, address(t, large) + 1000, 10}
	offsets, segments := make([]int64, count), make([]int64, 3*(count+1))
	at := address(t, blocks)
	n := must(Plan(at, count, address(t, offsets), address(t, segments)))
	if want := []int64{blocks[0], 0, 100000, 0, 100032, 2048}; n != 2 || fmt.Sprint(segments[:6]) != fmt.Sprint(want) {
		t.Fatalf("%d segments %v, want %v", n, segments, want)
	}
	if want := []int64{0, 100032, 1000}; fmt.Sprint(offsets) != fmt.Sprint(want) {
		t.Fatalf("offsets %v, want %v", offsets, want)
	}

	skeleton := []byte("the skeleton")
	about := `{"class":"Sample"}`
	index := `{"tensors":[{"name":"a","dtype":"uint8","shape":[5],"stride":[1],"segment":1,"offset":0,"persistent":true}]}`
	sums := make([]int64, 3)
	if n := must(CountSums(at, count)); n != 3 {
		t.Fatalf("%d checksums", n)
	}
	must(Sums(at, count, address(t, sums), 3))
	size := must(HeadSize(n, count, int64(len(skeleton)), int64(len(index)), 3, int64(len(about)), 0))
	head := make([]byte, size)
	must(EncodeHead(address(t, head), size, address(t, segments), n, at, address(t, offsets), count,
		address(t, skeleton), int64(len(skeleton)), address(t, sums), 3, 0, 0, index, about))
	packed := make([]byte, 2048)
	must(Pack(at, count, address(t, offsets), 100032, address(t, packed), 2048))

	whole := append(append(append(bytes.Clone(head), large...), make([]byte, 32)...), packed...)
	length := int64(len(whole))
	if got := must(CheckHead(address(t, whole), length, length, 0, 0)); got != count {
		t.Fatalf("%d blocks", got)
	}
	if got, err := Index(address(t, head), size); err != nil || got != index {
		t.Fatalf("%s, %v", got, err)
	}
	r, err := format.Open(whole)
	if err != nil {
		t.Fatal(err)
	}
	if _, got, _ := r.Tensor("a"); string(got) != "small" {
		t.Fatalf("%q", got)
	}

	_, err = CheckHead(address(t, whole), length, length-1, 0, 0)
	wantCode(t, "cut off", "damaged", err)
	_, err = CheckHead(address(t, large), 100000, 100000, 0, 0)
	wantCode(t, "no image", "foreign", err)
	_, err = Index(address(t, large), 100000)
	wantCode(t, "index of no image", "foreign", err)
	if row := must(Verify(address(t, whole), length, 0, 0)); row != -1 {
		t.Fatalf("block %d is damaged", row)
	}
	fingerprint, err := Fingerprint(address(t, head), size)
	if err != nil || len(fingerprint) != 32 {
		t.Fatalf("%q, %v", fingerprint, err)
	}
	rows, shared := []int64{address(t, whole), length}, make([]int64, count)
	if n := must(Share(at, count, address(t, sums), 3, address(t, rows), 1, address(t, shared))); n != 3 {
		t.Fatalf("%d blocks shared, at %x", n, shared)
	}
	whole[size+1234] ^= 1
	row, err := Verify(address(t, whole), length, 0, 0)
	if err != nil || row != 0 {
		t.Fatalf("block %d is damaged, %v, want 0", row, err)
	}
	whole[8] = 9
	_, err = CheckHead(address(t, whole), length, length, 0, 0)
	wantCode(t, "later version", "version", err)
	segments[1] = 64
	_, err = EncodeHead(address(t, head), size, address(t, segments), n, at, address(t, offsets), count,
		address(t, skeleton), int64(len(skeleton)), address(t, sums), 3, 0, 0, index, about)
	wantCode(t, "first segment not at 0", "argument", err)
	blocks[1] = -1
	_, err = Plan(at, count, address(t, offsets), address(t, segments))
	wantCode(t, "negative block", "argument", err)
}

func TestImageOfNothing(t *testing.T) {
	must := must(t)
	if n := must(Plan(0, 0, 0, 0)); n != 0 {
		t.Fatalf("%d segments", n)
	}
	must(Pack(0, 0, 0, 0, 0, 0))
	size := must(HeadSize(0, 0, 0, 14, 0, 0, 0))
	head := make([]byte, size)
	must(EncodeHead(address(t, head), size, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, `{"tensors":[]}`, ""))
	if n := must(CheckHead(address(t, head), size, size, 0, 0)); n != 0 {
		t.Fatalf("%d blocks", n)
	}
}

// No number that Python can pass by mistake may end the process: these would all be read or written otherwise.
func TestImpossibleNumbersAreArgumentErrors(t *testing.T) {
	table := make([]int64, 100)
	at := address(t, table)
	empty := `{"tensors":[]}`
	call := func(value int64, err error) error { return err }
	for name, err := range map[string]error{
		"Plan null":               call(Plan(0, 1, at, at)),
		"Plan null offsets":       call(Plan(at, 1, 0, at)),
		"Plan negative count":     call(Plan(at, -1, at, at)),
		"Plan negative address":   call(Plan(-8, 1, at, at)),
		"Plan huge count":         call(Plan(at, math.MaxInt64, at, at)),
		"Plan count overflows":    call(Plan(at, 1<<60, at, at)),
		"Plan unaligned":          call(Plan(at+1, 1, at, at)),
		"Pack null blocks":        call(Pack(0, 1, at, 0, at, 8)),
		"Pack null offsets":       call(Pack(at, 1, 0, 0, at, 8)),
		"Pack null dst":           call(Pack(at, 1, at, 0, 0, 8)),
		"Pack negative offset":    call(Pack(at, 1, at, -1, at, 8)),
		"Pack negative length":    call(Pack(at, 1, at, 0, at, -8)),
		"HeadSize negative":       call(HeadSize(-1, 0, 0, 0, 0, 0, 0)),
		"HeadSize huge":           call(HeadSize(math.MaxInt64, 0, 0, math.MaxInt64, 0, 0, 0)),
		"EncodeHead null":         call(EncodeHead(0, 2048, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, empty, "")),
		"EncodeHead small":        call(EncodeHead(at, 800, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, empty, "")),
		"EncodeHead segments":     call(EncodeHead(at, 800, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, empty, "")),
		"EncodeHead blocks":       call(EncodeHead(at, 800, 0, 0, 0, at, 1, 0, 0, 0, 0, 0, 0, empty, "")),
		"EncodeHead offsets":      call(EncodeHead(at, 800, 0, 0, at, 0, 1, 0, 0, 0, 0, 0, 0, empty, "")),
		"EncodeHead skeleton":     call(EncodeHead(at, 800, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, empty, "")),
		"EncodeHead sums":         call(EncodeHead(at, 800, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, empty, "")),
		"EncodeHead bases":        call(EncodeHead(at, 800, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, empty, "")),
		"CountSums null":          call(CountSums(0, 1)),
		"Sums null":               call(Sums(0, 1, at, 1)),
		"Sums no room":            call(Sums(at, 1, 0, 1)),
		"Sums too many":           call(Sums(0, 0, at, 1)),
		"Share null":              call(Share(0, 1, at, 1, at, 0, at)),
		"Share null sums":         call(Share(at, 1, 0, 1, at, 0, at)),
		"Share null bases":        call(Share(at, 1, at, 0, 0, 1, at)),
		"Share null offsets":      call(Share(at, 1, at, 0, at, 0, 0)),
		"Share other sums":        call(Share(at, 1, at, 1, at, 0, at)),
		"CheckHead null":          call(CheckHead(0, 1, 1, 0, 0)),
		"CheckHead negative":      call(CheckHead(at, -1, 1, 0, 0)),
		"CheckHead image":         call(CheckHead(at, 800, -1, 0, 0)),
		"CheckHead end of memory": call(CheckHead(math.MaxInt64, 1, 1, 0, 0)),
		"CheckPickle null":        call(CheckPickle(0, 1)),
		"CheckPickle negative":    call(CheckPickle(at, -1)),
		"Verify null":             call(Verify(0, 1, 0, 0)),
		"Verify negative":         call(Verify(at, -1, 0, 0)),
		"Map null":                call(Map(0, 1, 0, 1, at)),
		"Map nothing":             call(Map(at, 0, 0, 1, at)),
		"Map overflow":            call(Map(math.MaxInt64, math.MaxInt64, 0, 1, at)),
		"Map raylet":              call(Map(at, 1, -1, 1, at)),
		"Map null record":         call(Map(at, 1, 0, 1, 0)),
		"Detach null":             call(Detach(0, 1)),
		"Detach nothing":          call(Detach(address(t, make([]int64, 2)), 1)),
		"Prefault null":           call(Prefault(0, 1)),
		"Prefault negative":       call(Prefault(at, -1)),
		"Prefault overflow":       call(Prefault(math.MaxInt64-10, 10)),
	} {
		wantCode(t, name, "argument", err)
	}
	_, err := Fingerprint(0, 1)
	wantCode(t, "Fingerprint null", "argument", err)
	_, err = Index(0, 1)
	wantCode(t, "Index null", "argument", err)
	_, err = Safetensors(0, 1, 1)
	wantCode(t, "Safetensors null", "argument", err)
	_, err = Safetensors(at, 8, 7)
	wantCode(t, "Safetensors of a file shorter than its head", "argument", err)
}

func TestSafetensorsHeader(t *testing.T) {
	head := []byte("\x40\x00\x00\x00\x00\x00\x00\x00" + `{"a":{"data_offsets":[0,24],"shape":[1,2,3],"dtype":"F32"}}` + "     ")
	at, length := address(t, head), int64(len(head))
	const want = `{"metadata":{},"tensors":[{"name":"a","dtype":"F32","shape":[1,2,3],"begin":0,"end":24}],"data":72}`
	if got, err := Safetensors(at, length, length+24); err != nil || got != want {
		t.Fatalf("%s, %v, want %s", got, err, want)
	}
	_, err := Safetensors(at, length, length+23)
	wantCode(t, "cut off", "damaged", err)
	_, err = Safetensors(at, 7, 7)
	wantCode(t, "no length", "foreign", err)
}

func TestPanicIsAnErrorThatSaysWhere(t *testing.T) {
	_, err := Panic("on purpose")
	wantCode(t, "Panic", "panic", err)
	if text := err.Error(); !strings.HasPrefix(text, "panic: on purpose\ngithub.com/ray-zerocopy/ray-zerocopy/gozc.Panic(") {
		t.Fatal(text)
	}
}

func TestSleepAndVersion(t *testing.T) {
	if slept := must(t)(Sleep(1)); slept != 1 {
		t.Fatal(slept)
	}
	if version := must(t)(FormatVersion()); version != 2 {
		t.Fatal(version)
	}
}

func TestEverySentinelHasItsCode(t *testing.T) {
	for sentinel, code := range map[error]string{
		format.ErrForeign: "foreign", format.ErrByteOrder: "foreign", format.ErrVersion: "version", format.ErrDamaged: "damaged", pickle.ErrDamaged: "damaged",
		safetensors.ErrForeign: "foreign", safetensors.ErrDamaged: "damaged",
		format.ErrNoSums: "version",
		format.ErrInput:  "argument", layout.ErrBlock: "argument", errArgument: "argument", shm.ErrMode: "argument",
		shm.ErrPrivate: "private", shm.ErrScarce: "scarce", shm.ErrNoFile: "nofile", shm.ErrUnsupported: "unsupported",
		errors.New("other"): "system",
	} {
		wantCode(t, sentinel.Error(), code, coded(fmt.Errorf("%w: in detail", sentinel)))
	}
	if coded(nil) != nil {
		t.Error("no error has a code")
	}
}
