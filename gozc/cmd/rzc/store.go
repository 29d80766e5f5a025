package main

import "io"

const storePrefix = "store:"

var store = &verb{name: "store", short: "list the images in this node's store", run: func(given, io.Writer) error { return failed("not yet") }}

func openStored(path string) (*weights, error) { return nil, failed("not yet") }
