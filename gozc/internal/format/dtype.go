package format

// ElementSize returns the size in bytes of an element; false for a dtype that there is not.
func ElementSize(dtype string) (int64, bool) {
	size, known := elementSizes[dtype]
	return size, known
}

// elementSizes holds every dtype of torch that is not quantized, with the size in bytes of an element. Names
// without torch's prefix; float4_e2m1fn_x2 and bits* count as torch counts them, in bytes that hold several
// values.
var elementSizes = map[string]int64{
	"bool": 1,
	"int8": 1, "int16": 2, "int32": 4, "int64": 8,
	"uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8,
	"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
	"complex32": 4, "bcomplex32": 4, "complex64": 8, "complex128": 16,
	"float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
	"float4_e2m1fn_x2": 1,
	"int1":             1, "int2": 1, "int3": 1, "int4": 1, "int5": 1, "int6": 1, "int7": 1,
	"uint1": 1, "uint2": 1, "uint3": 1, "uint4": 1, "uint5": 1, "uint6": 1, "uint7": 1,
	"bits8": 1, "bits16": 2, "bits1x8": 1, "bits2x4": 1, "bits4x2": 1,
}
