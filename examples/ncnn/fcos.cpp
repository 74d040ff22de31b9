// Copyright the FCOS-Train contributors.
//
// Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
// the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on
// an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the
// specific language governing permissions and limitations under the License.

// FCOS in ncnn: the maps of a network to boxes. It prints the lines of `fcos-train ncnn-demo`, which decodes alike.
//
// Decoder alone, C++11, no library. It reads maps from a file, or from standard input for `-`:
//     g++ -O2 -std=c++11 fcos.cpp -o fcos_decode
//     ./fcos_decode MAPS [CLS_THR [IOU_THR]]
// MAPS, little-endian: int32 number of levels; then for each level int32 stride, classes, height, width, and the
// float32 maps [channels, height, width] of centerness (1 channel), distances (4) and class logits (classes).
//
// Whole program, with ncnn and OpenCV:
//     g++ -O2 -std=c++11 -DFCOS_WITH_NCNN fcos.cpp -o fcos -lncnn -fopenmp $(pkg-config --cflags --libs opencv4)
//     ./fcos IMAGE|LIST [PARAM BIN [HEIGHT WIDTH [CLS_THR [IOU_THR]]]]
// Pixels are (BGR - FCOS_MEAN) / FCOS_STD. -DFCOS_MEAN="{...}", -DFCOS_STD="{...}" and, for RGB, -DFCOS_RGB set what the
// description beside the .param has.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace fcos {

const size_t kCandidates = 1000;  // of each level, before the suppression

// Maps of one level of the pyramid, each [channels, height, width].
struct Level {
    int stride, classes, height, width;
    std::vector<float> centerness;  // 1 channel, logits
    std::vector<float> distances;   // 4 channels: left, top, right, bottom, in strides
    std::vector<float> logits;      // `classes` channels
};

struct Box {
    float x1, y1, x2, y2;  // in pixels of the network input
    float score;
    int label;
};

float sigmoid(float x) { return 1.f / (1.f + std::exp(-x)); }

bool better(const Box& a, const Box& b) { return a.score > b.score; }

// The best candidates of a level: classes above the threshold, scored by sqrt(class x centerness).
std::vector<Box> candidates(const Level& level, float cls_thr) {
    const int places = level.height * level.width;
    std::vector<Box> found;
    for (int place = 0; place < places; place++) {
        for (int label = 0; label < level.classes; label++) {
            const float probability = sigmoid(level.logits[size_t(label) * places + place]);
            if (!(probability > cls_thr)) continue;
            const float stride = float(level.stride);
            const float x = (place % level.width + 0.5f) * stride, y = (place / level.width + 0.5f) * stride;
            const float* side = &level.distances[place];
            Box box;
            box.x1 = x - side[0] * stride;
            box.y1 = y - side[places] * stride;
            box.x2 = x + side[2 * places] * stride;
            box.y2 = y + side[3 * places] * stride;
            box.score = std::sqrt(probability * sigmoid(level.centerness[place]));
            box.label = label;
            found.push_back(box);
        }
    }
    // Stable: of equal scores the earlier place, then the lower class, comes first, as in the Python decoder.
    std::stable_sort(found.begin(), found.end(), better);
    if (found.size() > kCandidates) found.resize(kCandidates);
    return found;
}

// Intersection over union; widths and heights count as x2 - x1 + 1.
float iou(const Box& a, const Box& b) {
    const float width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1) + 1.f;
    const float height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1) + 1.f;
    const float both = std::max(width, 0.f) * std::max(height, 0.f);
    const float area_a = (a.x2 - a.x1 + 1.f) * (a.y2 - a.y1 + 1.f);
    const float area_b = (b.x2 - b.x1 + 1.f) * (b.y2 - b.y1 + 1.f);
    return both / (area_a + area_b - both);
}

// Boxes of all levels after greedy suppression within each class, highest score first.
std::vector<Box> decode(const std::vector<Level>& levels, float cls_thr, float iou_thr) {
    std::vector<Box> all;
    for (size_t i = 0; i < levels.size(); i++) {
        const std::vector<Box> found = candidates(levels[i], cls_thr);
        all.insert(all.end(), found.begin(), found.end());
    }
    std::stable_sort(all.begin(), all.end(), better);
    std::vector<Box> kept;
    for (size_t i = 0; i < all.size(); i++) {
        bool free = true;
        for (size_t j = 0; j < kept.size() && free; j++) {
            free = kept[j].label != all[i].label || !(iou(kept[j], all[i]) > iou_thr);
        }
        if (free) kept.push_back(all[i]);
    }
    return kept;
}

void print(size_t levels, const std::vector<Box>& boxes) {
    std::printf("FPN level: %d\n", int(levels));
    std::printf("Detect %d objects\n", int(boxes.size()));
    for (size_t i = 0; i < boxes.size(); i++) {
        const Box& box = boxes[i];
        std::printf("Bounding box: position(%d %d %d %d) in category %d with score %.3f\n", int(box.x1), int(box.y1),
                    int(box.x2), int(box.y2), box.label, double(box.score));
    }
}

// A number between 0 and 1; false if the text is none.
bool fraction(const char* text, float* value) {
    char* end = nullptr;
    *value = std::strtof(text, &end);
    return end != text && *end == '\0' && *value >= 0.f && *value <= 1.f;
}

}  // namespace fcos

#ifndef FCOS_WITH_NCNN

namespace {

const int kLargest = 1 << 16;  // of what a file may give as levels, classes or sides

bool read_number(std::istream& in, int32_t* value) {
    return bool(in.read(reinterpret_cast<char*>(value), sizeof *value)) && *value > 0 && *value <= kLargest;
}

bool read_map(std::istream& in, size_t count, std::vector<float>* map) {
    if (count > (size_t(1) << 28)) return false;  // 1 GiB
    map->resize(count);
    return bool(in.read(reinterpret_cast<char*>(map->data()), std::streamsize(count * sizeof(float))));
}

bool read_levels(std::istream& in, std::vector<fcos::Level>* levels) {
    int32_t count, numbers[4];
    if (!read_number(in, &count)) return false;
    for (int i = 0; i < count; i++) {
        for (int j = 0; j < 4; j++) {
            if (!read_number(in, &numbers[j])) return false;
        }
        fcos::Level level = {numbers[0], numbers[1], numbers[2], numbers[3], {}, {}, {}};
        const size_t places = size_t(level.height) * level.width;
        if (!read_map(in, places, &level.centerness) || !read_map(in, 4 * places, &level.distances) ||
            !read_map(in, places * level.classes, &level.logits)) {
            return false;
        }
        levels->push_back(level);
    }
    return in.peek() == std::istream::traits_type::eof();
}

}  // namespace

int main(int argc, char** argv) {
    float cls_thr = 0.5f, iou_thr = 0.6f;
    if (argc < 2 || argc > 4 || (argc > 2 && !fcos::fraction(argv[2], &cls_thr)) ||
        (argc > 3 && !fcos::fraction(argv[3], &iou_thr))) {
        std::fprintf(stderr, "usage: %s MAPS [CLS_THR [IOU_THR]], thresholds from 0 to 1\n", argv[0]);
        return 2;
    }
    std::vector<fcos::Level> levels;
    const std::string name = argv[1];
    std::ifstream file;
    if (name != "-") file.open(name.c_str(), std::ios::binary);
    if (!read_levels(name == "-" ? std::cin : static_cast<std::istream&>(file), &levels)) {
        std::fprintf(stderr, "error: %s cannot be read, or does not hold maps\n", argv[1]);
        return 2;
    }
    fcos::print(levels.size(), fcos::decode(levels, cls_thr, iou_thr));
    return 0;
}

#else  // FCOS_WITH_NCNN

#include <ncnn/net.h>

#include <opencv2/imgcodecs.hpp>

#ifndef FCOS_MEAN
#define FCOS_MEAN {103.53f, 116.28f, 123.675f}
#endif
#ifndef FCOS_STD
#define FCOS_STD {1.f, 1.f, 1.f}
#endif
#ifdef FCOS_RGB
#define FCOS_PIXELS ncnn::Mat::PIXEL_BGR2RGB
#else
#define FCOS_PIXELS ncnn::Mat::PIXEL_BGR
#endif

namespace {

struct Settings {
    const char *param, *bin;
    int height, width;
    float cls_thr, iou_thr;
};

// The channels of a blob without the padding between them.
std::vector<float> packed(const ncnn::Mat& blob) {
    std::vector<float> values;
    for (int c = 0; c < blob.c; c++) {
        const float* channel = blob.channel(c);
        values.insert(values.end(), channel, channel + size_t(blob.w) * blob.h);
    }
    return values;
}

bool has_blob(const ncnn::Net& net, const std::string& name) {
    for (size_t i = 0; i < net.blobs().size(); i++) {
        if (net.blobs()[i].name == name) return true;
    }
    return false;
}

// Levels P3.. until one is missing; false if ncnn fails or the maps do not fit one another.
bool run(const ncnn::Net& net, const ncnn::Mat& input, std::vector<fcos::Level>* levels) {
    ncnn::Extractor extractor = net.create_extractor();
    if (extractor.input("input_image", input) != 0) return false;
    for (int number = 3;; number++) {
        const std::string prefix = "P" + std::to_string(number);
        const std::string names[3] = {prefix + "centerness", prefix + "bbox_reg", prefix + "logits"};
        if (!has_blob(net, names[0]) || !has_blob(net, names[1]) || !has_blob(net, names[2])) break;
        ncnn::Mat blobs[3];
        for (int i = 0; i < 3; i++) {
            if (extractor.extract(names[i].c_str(), blobs[i]) != 0) return false;
            if (blobs[i].w != blobs[0].w || blobs[i].h != blobs[0].h) return false;
        }
        if (blobs[0].c != 1 || blobs[1].c != 4) return false;
        fcos::Level level = {1 << number,      blobs[2].c,       blobs[0].h,      blobs[0].w,
                             packed(blobs[0]), packed(blobs[1]), packed(blobs[2])};
        levels->push_back(level);
    }
    return !levels->empty();
}

bool detect(const ncnn::Net& net, const std::string& path, const Settings& settings) {
    const cv::Mat image = cv::imread(path, cv::IMREAD_COLOR);
    if (image.empty()) {
        std::fprintf(stderr, "error: image %s cannot be read\n", path.c_str());
        return false;
    }
    ncnn::Mat input = ncnn::Mat::from_pixels_resize(image.data, FCOS_PIXELS, image.cols, image.rows, settings.width,
                                                    settings.height);
    const float mean[3] = FCOS_MEAN, std[3] = FCOS_STD;
    const float factor[3] = {1.f / std[0], 1.f / std[1], 1.f / std[2]};
    input.substract_mean_normalize(mean, factor);
    std::vector<fcos::Level> levels;
    if (!run(net, input, &levels)) {
        std::fprintf(stderr, "error: %s does not give the maps of FCOS for this input\n", settings.param);
        return false;
    }
    fcos::print(levels.size(), fcos::decode(levels, settings.cls_thr, settings.iou_thr));
    return true;
}

bool is_list(const std::string& path) {
    const std::string end = path.size() < 4 ? "" : path.substr(path.size() - 4);
    return end == ".lst" || end == ".txt";
}

}  // namespace

int main(int argc, char** argv) {
    Settings settings = {"net.param", "net.bin", 512, 640, 0.5f, 0.6f};
    bool sound = argc == 2 || argc == 4 || (argc >= 6 && argc <= 8);
    if (sound && argc >= 4) settings.param = argv[2], settings.bin = argv[3];
    if (sound && argc >= 6) settings.height = std::atoi(argv[4]), settings.width = std::atoi(argv[5]);
    sound = sound && settings.height > 0 && settings.width > 0;
    sound = sound && (argc < 7 || fcos::fraction(argv[6], &settings.cls_thr));
    sound = sound && (argc < 8 || fcos::fraction(argv[7], &settings.iou_thr));
    if (!sound) {
        std::fprintf(stderr, "usage: %s IMAGE|LIST [PARAM BIN [HEIGHT WIDTH [CLS_THR [IOU_THR]]]]\n", argv[0]);
        return 2;
    }
    ncnn::Net net;
    if (net.load_param(settings.param) != 0 || net.load_model(settings.bin) != 0) {
        std::fprintf(stderr, "error: cannot load %s and %s\n", settings.param, settings.bin);
        return 2;
    }
    if (!is_list(argv[1])) return detect(net, argv[1], settings) ? 0 : 2;
    std::ifstream list(argv[1]);
    if (!list) {
        std::fprintf(stderr, "error: cannot read %s\n", argv[1]);
        return 2;
    }
    bool good = true;
    for (std::string line; std::getline(list, line);) {
        if (line.empty()) continue;
        std::printf("processing file %s\n", line.c_str());
        good = detect(net, line, settings) && good;
    }
    return good ? 0 : 2;
}

#endif  // FCOS_WITH_NCNN
