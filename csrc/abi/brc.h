/* The C interface of the CPU kernels.
 *
 * Symbols: T steps, B batch rows, I input size, H hidden size. Numbers are float or double as
 * `is_double` says, all pointers to void below alike. Which gates and states a cell has and its
 * equations stand in csrc/cells. Gates come in the order that parameters have outside: c, a,
 * candidate in the bistable cells, torch's in its own.
 */

#ifndef BRC_H
#define BRC_H

#include <stdint.h>

#if defined(_WIN32)
#define BRC_API __declspec(dllexport)
#else
#define BRC_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Of any cell, at most. */
#define BRC_GATES 4
#define BRC_STATES 2

typedef struct {
  int64_t steps, batch, input_size, hidden_size; /* T > 0, the others >= 0 */
  int64_t input_strides[3];                      /* of `input`, in elements; any */
  const void* input;                             /* (T, B, I); of a layer above another: unused */
  const void* initial_states[BRC_STATES];        /* (B, H) each, contiguous */
  const void* kernel[BRC_GATES];                 /* (I, H) each */
  const void* memory[BRC_GATES];                 /* (H) or (H, H) each */
  const void* bias[BRC_GATES];                   /* (H) each, beside the kernel; NULL for none */
  const void* memory_bias[BRC_GATES];            /* (H) each, beside the memory; NULL for none */
  int64_t kernel_strides[2], memory_strides[2];  /* of each gate, in elements; any. (H) has the last */
  const int64_t* lengths;                        /* (B), clamped to 0..T, or NULL for all T */
  int64_t saved_steps;                           /* K <= T: the last to be taken are saved */
  int32_t cell;                                  /* from brc_cells */
  int32_t is_double;
  int32_t reverse;          /* from each row's last step to its first */
  int32_t threads;          /* at most; small problems take fewer */
  int32_t instruction_set;  /* from brc_instruction_sets */
  const uint8_t* resets;    /* (T, B), not 0 where a segment begins, or NULL for one of all steps */
  int64_t resets_strides[2];
  const void* reset_states[BRC_STATES]; /* (B, H) each, contiguous, or NULL for zero: what a segment
                                           starts from, in reverse at its own last step */
} brc_layer;

typedef struct {
  const void* output;           /* (T, B, H), contiguous, as the forward pass left it */
  const void* saved;            /* (K, B, saved H), the same; other steps are computed again */
  const void* grad_output;      /* (T, B, H), or NULL for zero */
  int64_t grad_output_strides[3];
  const void* grad_last;        /* (states, B, H), contiguous, or NULL for zero */
  void* grad_input;             /* (T, B, I), or NULL if not wanted */
  int64_t grad_input_strides[3];
  void* grad_initial_states;    /* (states, B, H) */
  void* grad_kernel;            /* (I, gates H), the cell's gates side by side */
  int64_t grad_kernel_strides[2];
  void* grad_memory;            /* (gates H) or (H, gates H), those that it has a memory for */
  int64_t grad_memory_strides[2]; /* of (gates H) the last */
  void* grad_bias;              /* (gates H), up to the last that has one, or NULL */
  void* grad_memory_bias;       /* (gates H), those that it has a memory for, or NULL */
  void* grad_reset_states;      /* (states, B, H), or NULL if there are none */
} brc_gradients;

/* The sizes of brc_layer and brc_gradients, in bytes: a caller compiled or written for another
 * version of this interface is to find out before it calls. */
BRC_API void brc_sizes(int64_t sizes[2]);

/* The names of the cells: a comma-separated list whose position is `cell`. */
BRC_API const char* brc_cells(void);

/* How many quantities of a unit the cell saves at a step: `saved` below. */
BRC_API int32_t brc_saved(int32_t cell);

/* The instruction sets compiled in that this processor has, best first: a comma-separated list
 * whose position is `instruction_set`. */
BRC_API const char* brc_instruction_sets(void);

/* `count` layers, one upon the other: each takes the outputs of the one before. They agree in all
 * but input, input size and parameters, the sizes of all but the first being (T, B, H, H); several
 * save nothing. output (T, B, H) contiguous: the last layer's h_t, zero where a row has ended; last,
 * for each state (count, B, H) contiguous: each row's last states; saved (K, B, saved H) contiguous,
 * in the input's order: what the cell saves for the backward pass. A cell of several states saves
 * all steps or none. Returns 0, or 1 for lack of memory. */
BRC_API int brc_forward(const brc_layer* layers, int32_t count, void* output, void* const* last,
                        void* saved);

/* Writes all gradients of one layer that are not NULL. Returns 0, or 1 for lack of memory. */
BRC_API int brc_backward(const brc_layer* layer, const brc_gradients* gradients);

#ifdef __cplusplus
}
#endif

#endif
