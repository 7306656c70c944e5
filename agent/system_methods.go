package main

import (
	"encoding/json/jsontext"
	"math"
	"strings"
	"time"
)

// systemMethods are about the machine as a whole.
var systemMethods = map[string]method{
	"system.info":      {file, (*caller).systemInfo},
	"system.metrics":   {file, (*caller).metrics},
	"system.set_clock": {file, (*caller).setClock},
	"system.resume":    {command, (*caller).resume},
	"system.shutdown":  {file, (*caller).shutdown},
	"system.logs":      {command, (*caller).logs},
}

// systemInfo is the method system.info.
func (w *caller) systemInfo(params jsontext.Value) (call, *rpcError) {
	if err := decodeParams(params); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) { return systemInfo().end(), nil }, nil
}

// metrics is the method system.metrics.
func (w *caller) metrics(params jsontext.Value) (call, *rpcError) {
	if err := decodeParams(params); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) { return w.systemMetrics().end(), nil }, nil
}

// setClock is the method system.set_clock.
func (w *caller) setClock(params jsontext.Value) (call, *rpcError) {
	var nanoseconds int64
	if err := decodeParams(params, integer("time_ns", &nanoseconds, 0, math.MaxInt64)); err != nil {
		return nil, err
	}
	return func() ([]byte, *rpcError) {
		step, err := setClock(nanoseconds)
		if err != nil {
			return nil, fileError(err)
		}
		return object(nil).integer("step_ns", step).end(), nil
	}, nil
}

// resume is the method system.resume.
func (w *caller) resume(params jsontext.Value) (call, *rpcError) {
	var token, entropy, hostname string
	nanoseconds := int64(-1)
	if err := decodeParams(params, text("token", &token), optional(text("entropy", &entropy)),
		optional(integer("time_ns", &nanoseconds, 0, math.MaxInt64)), optional(text("hostname", &hostname))); err != nil {
		return nil, err
	}
	if token == "" || len(token) > tokenLimit || strings.ContainsAny(token, "\n\x00") {
		return nil, invalidParams("token must have 1 to 256 bytes, and no newline")
	}
	if hostname != "" && !validHostname(hostname) {
		return nil, invalidParams("hostname is not the name of a host")
	}
	random, failure := decodeContent("entropy", entropy, encodingBase64)
	if failure != nil {
		return nil, failure
	}
	if len(random) > entropyLimit {
		return nil, invalidParams("entropy is longer than 4096 bytes")
	}
	return func() ([]byte, *rpcError) {
		result, err := resume(resumeState, token, w.resumeParts(nanoseconds, random, hostname))
		if err != nil {
			return nil, fileError(err)
		}
		return result.object().end(), nil
	}, nil
}

// resumeParts are in the order in which one builds on another: the id is random, and the DHCP client
// sends the name.
func (a *agent) resumeParts(nanoseconds int64, random []byte, hostname string) []part {
	var parts []part
	if nanoseconds >= 0 {
		parts = append(parts, part{"clock", func() (bool, error) {
			step, err := setClock(nanoseconds)
			return step != 0, err
		}})
	}
	if len(random) > 0 {
		parts = append(parts, part{"entropy", func() (bool, error) { return true, addEntropy(random) }})
	}
	parts = append(parts, part{"machine_id", func() (bool, error) { return newMachineID(machineIDFile, busMachineID) }})
	if hostname != "" {
		parts = append(parts, part{"hostname", func() (bool, error) { return setHostname(hostname) }})
	}
	return append(parts, part{"network", a.renewNetwork})
}

// delayMostMS is the longest time that a shutdown may wait: an hour.
const delayMostMS = 60 * 60 * 1000

// shutdown is the method system.shutdown. It is answered before the machine ends.
func (w *caller) shutdown(params jsontext.Value) (call, *rpcError) {
	var mode string
	var delayMS int64
	if err := decodeParams(params, text("mode", &mode), optional(integer("delay_ms", &delayMS, 0, delayMostMS))); err != nil {
		return nil, err
	}
	chosen, known := endings[mode]
	if !known {
		return nil, invalidParams("mode must be poweroff, reboot or halt")
	}
	return func() ([]byte, *rpcError) {
		if err := mayEnd(); err != nil {
			return nil, fileError(err)
		}
		// An agent that is succeeded meanwhile stays for it.
		w.processes.pumping.Add(1)
		w.after = func() {
			defer w.processes.pumping.Done()
			time.Sleep(time.Duration(delayMS) * time.Millisecond)
			chosen.end()
		}
		return nothing, nil
	}, nil
}

// logs is the method system.logs.
func (w *caller) logs(params jsontext.Value) (call, *rpcError) {
	var wanted logRequest
	lines := int64(logLinesDefault)
	if err := decodeParams(params, optional(text("unit", &wanted.unit)), optional(text("cursor", &wanted.cursor)),
		optional(integer("lines", &lines, 1, logLinesLimit)),
		optional(integer("since_ns", &wanted.since, 0, math.MaxInt64))); err != nil {
		return nil, err
	}
	if wanted.cursor != "" && wanted.since != 0 {
		return nil, invalidParams("cursor and since_ns do not go together")
	}
	if len(wanted.cursor) > cursorLimit || strings.ContainsRune(wanted.cursor+wanted.unit, 0) {
		return nil, invalidParams("cursor or unit is no such name")
	}
	wanted.lines = int(lines)
	return func() ([]byte, *rpcError) {
		found, err := w.readLogs(wanted)
		if err != nil {
			return nil, fileError(err)
		}
		result := object(nil).texts("lines", found.lines).boolean("more", found.more)
		if found.cursor != "" {
			result = result.text("cursor", []byte(found.cursor))
		}
		return result.end(), nil
	}, nil
}
