package gpu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"dstack/internal/agentapi"
)

// parseAMD reads amd-smi's JSON: a list, or since ROCm 7 an object with the list.
func parseAMD(out string, node func(bdf string) string) ([]agentapi.GPU, error) {
	type card struct {
		Asic struct {
			MarketName string `json:"market_name"`
		} `json:"asic"`
		VRAM struct {
			Size struct {
				Value int `json:"value"`
			} `json:"size"`
		} `json:"vram"`
		Bus struct {
			BDF string `json:"bdf"`
		} `json:"bus"`
		Driver struct {
			Version       string `json:"version"`
			DriverVersion string `json:"driver_version"`
		} `json:"driver"`
	}
	var cards []card
	if err := json.Unmarshal([]byte(out), &cards); err != nil {
		var wrapped struct {
			GPUData []card `json:"gpu_data"`
		}
		if err := json.Unmarshal([]byte(out), &wrapped); err != nil {
			return nil, fmt.Errorf("read amd-smi's output: %w", err)
		}
		cards = wrapped.GPUData
	}
	var gpus []agentapi.GPU
	for _, c := range cards {
		path := node(c.Bus.BDF)
		if path == "" {
			continue
		}
		v := c.Driver.Version
		if v == "" {
			v = c.Driver.DriverVersion
		}
		gpus = append(gpus, agentapi.GPU{ID: path, Name: c.Asic.MarketName, MemoryMiB: c.VRAM.Size.Value, Driver: driver(v)})
	}
	return gpus, nil
}

// parseTenstorrent reads tt-smi's snapshot and merges the chips of one card.
func parseTenstorrent(out string) ([]agentapi.GPU, error) {
	var snap struct {
		DeviceInfo []struct {
			BoardInfo struct {
				BoardType string `json:"board_type"`
				BoardID   string `json:"board_id"`
				BusID     string `json:"bus_id"`
			} `json:"board_info"`
		} `json:"device_info"`
	}
	if err := json.Unmarshal([]byte(out), &snap); err != nil {
		return nil, fmt.Errorf("read tt-smi's output: %w", err)
	}
	if len(snap.DeviceInfo) == 0 {
		return nil, errors.New("tt-smi lists no device")
	}
	version, _ := os.ReadFile("/sys/module/tenstorrent/version") // only for people
	type board struct {
		name, id string
		mib      int
	}
	var boards []board
	add := func(name, id string) {
		boards = append(boards, board{name, id, chipMemory(name)})
	}
	merge := func(name, id string, sameName bool) bool {
		for i := range boards {
			if boards[i].id == id && (!sameName || boards[i].name == name) {
				boards[i].mib += chipMemory(name)
				return true
			}
		}
		return false
	}
	for pass := range 3 {
		for _, d := range snap.DeviceInfo {
			name, side := boardName(d.BoardInfo.BoardType)
			id, remote := d.BoardInfo.BoardID, d.BoardInfo.BusID == "N/A"
			switch {
			case pass == 0 && side == "L":
				add(name, id)
			case pass == 1 && side == "R":
				merge(name, id, blackhole(name))
			case pass == 1 && side == "" && blackhole(name) && !remote:
				add(name, id)
			case pass == 1 && side == "" && !blackhole(name):
				if !merge(name, id, false) {
					add(name, id)
				}
			case pass == 2 && side == "" && blackhole(name) && remote:
				merge(name, id, true)
			}
		}
	}
	var gpus []agentapi.GPU
	for i, b := range boards {
		gpus = append(gpus, agentapi.GPU{ID: fmt.Sprint(i), Name: b.name, MemoryMiB: b.mib, Driver: strings.TrimSpace(string(version))})
	}
	return gpus, nil
}

func boardName(s string) (name, side string) {
	for _, mark := range []string{" L", " R"} {
		if rest, ok := strings.CutSuffix(s, mark); ok {
			s, side = rest, mark[1:]
		}
	}
	switch {
	case s == "bh-scrappy" || s == "p100":
		return "p100a", side
	case strings.HasPrefix(s, "p150"):
		return "p150", side
	case strings.HasPrefix(s, "p300"):
		return "p300", side
	}
	return s, side
}

func blackhole(name string) bool {
	return name == "p100a" || name == "p150" || name == "p300" || name == "tt-galaxy-bh"
}

// chipMemory is what one chip has, in MiB.
func chipMemory(name string) int {
	switch {
	case strings.HasPrefix(name, "n150"), strings.HasPrefix(name, "n300"), strings.HasPrefix(name, "tt-galaxy-wh"):
		return 12288
	case name == "p100a":
		return 28672
	case name == "p150", name == "p300", name == "tt-galaxy-bh":
		return 32768
	}
	return 0
}
