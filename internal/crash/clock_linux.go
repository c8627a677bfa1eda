// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

// stepClock steps the machine's wall clock by a second, an hour or ten years,
// forwards or backwards. The clock stays between 2001 and 2100.
func stepClock(rng *rand.Rand) (string, error) {
	steps := []time.Duration{time.Second, time.Hour, tenYears}
	step := steps[rng.IntN(len(steps))]
	now := time.Now()
	if rng.IntN(2) == 0 && now.Add(-step).Year() > 2000 || now.Add(step).Year() > 2100 {
		step = -step
	}
	return fmt.Sprintf("%+v", step), setClock(step)
}

const tenYears = 10 * 365 * 24 * time.Hour

// setClock steps the machine's wall clock.
func setClock(step time.Duration) error {
	ts := unix.NsecToTimespec(time.Now().Add(step).UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}
