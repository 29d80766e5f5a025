package image_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/image"
)

// What a Python program has written by ModelWrapper.to_file(model, path).
const path = "../../tests/golden/v2.image"

func Example() {
	model, err := image.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	weight, err := model.Tensor("['model'].weight")
	if err != nil {
		log.Fatal(err)
	}
	values, err := image.View[float32](weight) // over the mapping: no copy
	if err != nil {
		log.Fatal(err)
	}
	for row := range weight.Shape[0] {
		fmt.Println(values[row*weight.Stride[0]:][:weight.Shape[1]])
	}
	// Output:
	// [0 1 2 3 4]
	// [5 6 7 8 9]
	// [10 11 12 13 14]
}

func ExampleImage_Tensors() {
	model, err := image.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	for _, tensor := range model.Tensors()[:3] {
		fmt.Println(tensor.Name, tensor.Dtype, tensor.Shape, len(tensor.Bytes()), "bytes")
	}
	// Output:
	// ['model'].weight float32 [3 5] 60 bytes
	// ['model'].brain bfloat16 [4] 8 bytes
	// ['model'].transposed int64 [3 2] 48 bytes
}

func ExampleImage_Verify() {
	model, err := image.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	fmt.Println(model.Verify())
	// Output: <nil>
}

func ExampleView() {
	model, err := image.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	brain, err := model.Tensor("['model'].brain")
	if err != nil {
		log.Fatal(err)
	}
	halves, err := image.View[image.BFloat16](brain)
	if err != nil {
		log.Fatal(err)
	}
	for _, half := range halves {
		fmt.Print(half.Float32(), " ")
	}
	_, err = image.View[float32](brain)
	fmt.Println(errors.Is(err, image.ErrDtype))
	// Output: 0 1 2 3 true
}

// An image that shares weights with others needs their files: it names them by their paths from its own folder.
func ExampleOpen_shared() {
	tuned, err := image.Open("../../tests/golden/v2-shared.image")
	if err != nil {
		log.Fatal(err)
	}
	defer tuned.Close()
	for _, tensor := range tuned.Tensors() {
		if tensor.Base >= 0 {
			fmt.Println(tensor.Name, "lies in base", tensor.Base)
		}
	}
	// Output:
	// ['model'].brain lies in base 0
	// ['model'].transposed lies in base 0
	// ['list'][0].weight lies in base 0
	// ['list'][1].weight lies in base 0
}
