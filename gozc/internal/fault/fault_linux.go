package fault

// extern void ray_zerocopy_explain(long start, long length, int of_file);
import "C"

// Explain has a write to a range of memory explained, before the process ends of it as it would anyway. The range
// counts until some hundred others have been named after it, mapped or not.
func Explain(start, length int64) {
	C.ray_zerocopy_explain(C.long(start), C.long(length), 0)
}

// ExplainFile does the same for a file that is cut short while it is mapped there.
func ExplainFile(start, length int64) {
	C.ray_zerocopy_explain(C.long(start), C.long(length), 1)
}
