package layout

import (
	"errors"
	"math"
	"reflect"
	"testing"
)

func TestPlan(t *testing.T) {
	const big = Coalesce
	for _, test := range []struct {
		name   string
		blocks []Block
		want   Layout
	}{
		{"no blocks, no segments", nil, Layout{nil, []int64{}}},
		{
			"empty blocks lie at 0 and need no address",
			[]Block{{0, 0}, {4096, 0}},
			Layout{nil, []int64{0, 0}},
		},
		{
			"a large block is read from where it lies",
			[]Block{{4096, big}},
			Layout{[]Segment{{4096, 0, big}}, []int64{0}},
		},
		{
			"small blocks are packed, each aligned",
			[]Block{{4096, 3000}, {8192, 1}},
			Layout{[]Segment{{0, 0, 3009}}, []int64{0, 3008}},
		},
		{
			"a packed segment is never shorter than Ray aligns",
			[]Block{{4096, 1}},
			Layout{[]Segment{{0, 0, MinPacked}}, []int64{0}},
		},
		{
			"large segments come first, the packed one last",
			[]Block{{64, 8}, {1 << 20, big + 1}, {256, 8}, {1 << 30, big}},
			Layout{
				[]Segment{{1 << 20, 0, big + 1}, {1 << 30, big + 64, big}, {0, 2*big + 64, MinPacked}},
				[]int64{2*big + 64, 0, 2*big + 128, big + 64},
			},
		},
		{
			"the same block twice is stored once",
			[]Block{{4096, big}, {4096, big}, {64, 8}, {64, 8}},
			Layout{[]Segment{{4096, 0, big}, {0, big, MinPacked}}, []int64{0, 0, big, big}},
		},
		{
			"a block inside another lies inside it",
			[]Block{{4096 + 100, 8}, {4096, big}},
			Layout{[]Segment{{4096, 0, big}}, []int64{100, 0}},
		},
		{
			"small blocks that overlap into a large run are one large segment",
			[]Block{{1<<20 + big/2 - 1, big / 2}, {1 << 20, big / 2}, {1<<20 + big - 2, 8}},
			Layout{[]Segment{{1 << 20, 0, big + 6}}, []int64{big/2 - 1, 0, big - 2}},
		},
		{
			"neighbours stay apart",
			[]Block{{4096, 10}, {4106, 10}},
			Layout{[]Segment{{0, 0, MinPacked}}, []int64{0, 64}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Plan(test.blocks)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Fatalf("got  %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestPlanRefusesImpossibleBlocks(t *testing.T) {
	for name, blocks := range map[string][]Block{
		"negative address": {{-1, 1}},
		"negative length":  {{1, -1}},
		"null address":     {{0, 1}},
		"address overflow": {{math.MaxInt64, 1}},
		"offset overflow":  {{1, math.MaxInt64 - 1}},
		"total overflow":   {{1, math.MaxInt64/2 - 30}, {math.MaxInt64 / 2, math.MaxInt64/2 - 30}},
	} {
		if got, err := Plan(blocks); !errors.Is(err, ErrBlock) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
