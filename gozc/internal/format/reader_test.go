package format

import (
	"bytes"
	"errors"
	"testing"
)

func TestReaderFindsTensorsByName(t *testing.T) {
	image := sampleImage(t)
	r, err := Open(image)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Tensors()) != 3 || r.Head().HeadSize != minHeadSize {
		t.Fatalf("%d tensors behind a head of %d bytes", len(r.Tensors()), r.Head().HeadSize)
	}
	data := image[minHeadSize:]
	for name, want := range map[string][]byte{"weight": data[:4000], "bias": data[4032 : 4032+12], "none": nil} {
		tensor, got, ok := r.Tensor(name)
		if !ok || tensor.Name != name || !bytes.Equal(got, want) {
			t.Errorf("%s: %+v, %d bytes, %v", name, tensor, len(got), ok)
		}
	}
	if _, got, ok := r.Tensor("missing"); ok || got != nil {
		t.Error("found a tensor that is not there")
	}
	_, weight, _ := r.Tensor("weight")
	if &weight[0] != &data[0] || cap(weight) != len(weight) {
		t.Error("the bytes are not a view that ends with the tensor")
	}
}

func TestFirstOfANameCounts(t *testing.T) {
	one, two := entry(`"a"`, `"int8"`, "[1]", "[1]", "0", "1", "true"), entry(`"a"`, `"int8"`, "[1]", "[1]", "0", "2", "true")
	head := encode(t, Parts{Segments: []Range{{0, 64}}, Index: []byte(`{"tensors":[` + one + "," + two + `]}`)})
	r, err := Open(append(head, make([]byte, 64)...))
	if err != nil {
		t.Fatal(err)
	}
	if tensor, _, _ := r.Tensor("a"); tensor.Offset != 1 {
		t.Fatalf("%+v", tensor)
	}
}

func TestOpenChecksTheIndex(t *testing.T) {
	image := sampleImage(t)
	at := bytes.Index(image, []byte(`"float32"`))
	copy(image[at:], `"float99"`)
	seal(image[:minHeadSize])
	if _, err := Open(image); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
}
