// Minimal samples from a counter-based generator: a function of (seed, substream, hypothesis), whatever the order, and
// the same on the CPU (coop_edge/pnp/sampling.py). Philox-4x32-10: Salmon, Moraes, Dror, Shaw, Parallel random numbers:
// as easy as 1, 2, 3, SC 2011.
#pragma once

#include "linalg.cuh"

namespace coop {

constexpr int MAX_SAMPLE = 6;

// The four words of counter c under key (key0, key1), in place.
COOP_HD void philox(unsigned key0, unsigned key1, unsigned* c) {
    for (int round = 0; round < 10; ++round) {
        const unsigned long long a = 0xD2511F53ull * c[0], b = 0xCD9E8D57ull * c[2];
        const unsigned c1 = c[1], c3 = c[3];
        c[0] = unsigned(b >> 32) ^ c1 ^ key0;
        c[1] = unsigned(b);
        c[2] = unsigned(a >> 32) ^ c3 ^ key1;
        c[3] = unsigned(a);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

// m <= 6 distinct numbers of 0..n-1, in the order of drawing.
COOP_HD void draw_sample(unsigned long long seed, unsigned substream, unsigned hypothesis, int n, int m, int* out) {
    unsigned words[4] = {0, 0, 0, 0};
    int ascending[MAX_SAMPLE];
    for (int i = 0; i < m; ++i) {
        if ((i & 3) == 0) {
            words[0] = hypothesis;
            words[1] = substream;
            words[2] = unsigned(i >> 2);
            words[3] = 0;
            philox(unsigned(seed), unsigned(seed >> 32), words);
        }
        // r counts among the points still free: step over those already drawn, and keep their list ascending.
        int r = int(((unsigned long long)words[i & 3] * (unsigned)(n - i)) >> 32);
        int at = 0;
        while (at < i && ascending[at] <= r) {
            ++r;
            ++at;
        }
        for (int j = i; j > at; --j) ascending[j] = ascending[j - 1];
        ascending[at] = r;
        out[i] = r;
    }
}

}  // namespace coop
