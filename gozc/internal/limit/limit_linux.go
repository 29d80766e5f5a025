package limit

import (
	_ "syscall" // is initialized before this
)

// extern void ray_zerocopy_put_back_limit(void);
import "C"

func init() {
	C.ray_zerocopy_put_back_limit()
}
