/* Tests of the settings: from text to values and back, every message word for word, ranges,
 * origins.
 *
 * Not a fuzzer, though damaged texts are read here too.
 */
#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "dass/config.h"
#include "dass/mem.h"
#include "dass/rng.h"

static dass_config config; /* 60 KiB: too large for a stack in good taste */
static dass_config config_b;

static dass_status parse(const char *text)
{
    dass_config_defaults(&config);
    return dass_config_parse(&config, "a.yaml", text, strlen(text));
}

static void test_config_defaults(void **state)
{
    (void)state;
    dass_config_defaults(&config);
    assert_int_equal(config.net_channels, 16);
    assert_string_equal(config.net_form, "cifar");
    assert_true(config.search_weight_decay == 3e-4);
    assert_true(config.search_alpha_in_score);
    assert_string_equal(config.origin[DASS_KEY_run_device], "default");
    assert_int_equal(dass_config_check(&config), DASS_OK);
    assert_string_equal(dass_config_key_name(DASS_KEY_search_alpha_beta1), "search.alpha.beta1");
    assert_string_equal(dass_config_key_default(DASS_KEY_search_alpha_beta1), "0.5");
    assert_string_equal(dass_config_key_help(DASS_KEY_net_layers), "number of cells");
}

static void test_config_parse(void **state)
{
    (void)state;
    const char *text = "# nested, dotted, and both at once\n"
                       "net:\n"
                       "  channels: 36   # wide\n"
                       "  form: imagenet\n"
                       "search.density: 2.5e-2\n"
                       "search:\n"
                       "  epochs.score: 7\n"
                       "  epochs: {pretrain: 1, finetune: +2}\n"
                       "  alpha:\n"
                       "    in_score: off\n"
                       "data.path: 'it''s here'\n"
                       "data:\n"
                       "run.device: null\n"
                       "net.genotype: \"\\u00e9.json\"\n"
                       "train.lr: -.5\n";
    assert_int_equal(parse(text), DASS_OK);
    assert_int_equal(config.net_channels, 36);
    assert_string_equal(config.net_form, "imagenet");
    assert_true(config.search_density == 0.025);
    assert_int_equal(config.search_epochs_pretrain, 1);
    assert_int_equal(config.search_epochs_score, 7);
    assert_int_equal(config.search_epochs_finetune, 2);
    assert_false(config.search_alpha_in_score);
    assert_string_equal(config.data_path, "it's here");
    assert_string_equal(config.run_device, "null");
    assert_string_equal(config.net_genotype, "\xc3\xa9.json");
    assert_true(config.train_lr == -0.5);
    assert_string_equal(config.origin[DASS_KEY_net_channels], "a.yaml:3");
    assert_string_equal(config.origin[DASS_KEY_search_epochs_finetune], "a.yaml:8");
    assert_string_equal(config.origin[DASS_KEY_net_layers], "default");
}

static void test_config_parse_nothing(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",           "\n\n", "# only a comment\n",          "---\n",
        "---\n...\n", "{}\n", "net:\nsearch: {epochs: {}}\n"};
    dass_config_defaults(&config_b);
    for (size_t i = 0; i < N_OF(texts); i++) {
        assert_int_equal(parse(texts[i]), DASS_OK);
        assert_memory_equal(&config, &config_b, sizeof config);
    }
}

static const struct {
    const char *text, *message;
} bad_texts[] = {
    /* keys */
    {"net:\n  layers: 8\nserch:\n  density: 0.1\n",
     "a.yaml:4: unknown key 'serch.density' (did you mean 'search.density'?)"},
    {"search.densty: 0.1\n",
     "a.yaml:1: unknown key 'search.densty' (did you mean 'search.density'?)"},
    {"\nlabel_smoothing: 0.1\n",
     "a.yaml:2: unknown key 'label_smoothing' (did you mean 'train.label_smoothing'?)"},
    {"zzzzzzzzzzzz: 1\n",
     "a.yaml:1: unknown key 'zzzzzzzzzzzz' ('dass help config' lists the keys)"},
    {"nett: {}\n", "a.yaml:1: unknown key 'nett' ('dass help config' lists the keys)"},
    {"net:\n  layers: 8\n  nodes: 4\n  layers: 9\n",
     "a.yaml:4: key 'net.layers' given twice, first on line 2; remove one"},
    {"net.layers: 8\nnet:\n  layers: 8\n",
     "a.yaml:3: key 'net.layers' given twice, first on line 1; remove one"},
    {"net:\n  layers: 8\nnet:\n  nodes: 4\n",
     "a.yaml:3: section 'net' given twice, first on line 1; join them"},
    {"search:\n  epochs: 50\n", "a.yaml:2: 'search.epochs' is a section; it holds keys such as "
                                "'search.epochs.pretrain', not a value"},
    {"net:\n  image:\n    height: 32\n",
     "a.yaml:2: key 'net.image' takes a value, not a mapping (height and width of an image as "
     "the network sees it)"},
    {"'': 1\n", "a.yaml:1: empty key"},
    {"? {a: b}\n: 1\n", "a.yaml:1: a key must be a word, not a mapping"},
    {"? [a]\n: 1\n", "a.yaml:1: lists are not supported; expected 'key: value' lines"},
    /* values */
    {"net.layers: eight\n", "a.yaml:1: net.layers: 'eight' is not an integer (number of cells)"},
    {"net.layers: 8.5\n", "a.yaml:1: net.layers: '8.5' is not an integer (number of cells)"},
    {"net.layers: 0x10\n", "a.yaml:1: net.layers: '0x10' is not an integer (number of cells)"},
    {"net.layers: ' 8'\n", "a.yaml:1: net.layers: ' 8' is not an integer (number of cells)"},
    {"net.layers:\n", "a.yaml:1: net.layers: '' is not an integer (number of cells)"},
    {"net.layers: 9223372036854775808\n", "a.yaml:1: net.layers: '9223372036854775808' is not "
                                          "an integer of 64 bits (number of cells)"},
    {"search.momentum: fast\n",
     "a.yaml:1: search.momentum: 'fast' is not a finite number (SGD momentum)"},
    {"search.momentum: .inf\n",
     "a.yaml:1: search.momentum: '.inf' is not a finite number (SGD momentum)"},
    {"search.momentum: nan\n",
     "a.yaml:1: search.momentum: 'nan' is not a finite number (SGD momentum)"},
    {"search.momentum: 1e999\n",
     "a.yaml:1: search.momentum: '1e999' is not a number a double can hold (SGD momentum)"},
    {"search.momentum: 1e-999\n",
     "a.yaml:1: search.momentum: '1e-999' is not a number a double can hold (SGD momentum)"},
    {"data.flip: maybe\n",
     "a.yaml:1: data.flip: 'maybe' is not true or false (random horizontal flip)"},
    {"net.form: cifer\n",
     "a.yaml:1: net.form: 'cifer' is not one of cifar, imagenet (did you mean 'cifar'?)"},
    {"prune.allocation: evenly\n",
     "a.yaml:1: prune.allocation: 'evenly' is not one of uniform, erk, global, floor"},
    {"data.path: \"a\\tb\"\n", "a.yaml:1: data.path: 'a?b' is not a text of printable UTF-8 on "
                               "one line (folder of the data files)"},
    {"data.path: \"a\\0b\"\n", "a.yaml:1: a text holds a NUL character"},
    {"data.path: \"a\\Lb\"\n",
     "a.yaml:1: data.path: 'a?b' is not a text of printable UTF-8 on one line (folder of the data files)"},
    /* YAML beyond settings */
    {"net.layers: [8]\n", "a.yaml:1: key 'net.layers': lists are not supported; give one value"},
    {"- net\n", "a.yaml:1: lists are not supported; expected 'key: value' lines"},
    {"just words\n", "a.yaml:1: expected 'key: value' lines"},
    {"net.layers: &n 8\n",
     "a.yaml:1: anchors, aliases and tags are not supported; write the value out"},
    {"net: &n {layers: 8}\n",
     "a.yaml:1: anchors, aliases and tags are not supported; write the value out"},
    {"net.layers: *n\n",
     "a.yaml:1: anchors, aliases and tags are not supported; write the value out"},
    {"net.layers: !!int 8\n",
     "a.yaml:1: anchors, aliases and tags are not supported; write the value out"},
    {"net.layers: 8\n---\nnet.nodes: 4\n", "a.yaml:2: a second document begins; keep one per file"},
    {"{a: {a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}}\n", "a.yaml:1: mappings nested deeper than 8"},
    {"net:\n  layers: 8\n nodes: 4\n", "a.yaml:3: not YAML: did not find expected key while "
                                       "parsing a block mapping"},
    {"net.layers: 8\nnet.nodes: 'four\n", "a.yaml:3: not YAML: found unexpected end of stream "
                                          "while scanning a quoted scalar"},
    {"net.layers: 8\n\x01: 4\n", "a.yaml:2: not YAML: control characters are not allowed"},
};

static void test_config_errors(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_OF(bad_texts); i++) {
        assert_fails(parse(bad_texts[i].text), DASS_CONFIG, bad_texts[i].message);
    }
}

static void test_config_limits(void **state)
{
    (void)state;
    static char text[(1 << 20) + 2];
    memset(text, '#', sizeof text - 1);
    dass_config_defaults(&config);
    assert_int_equal(dass_config_parse(&config, "a.yaml", text, 1 << 20), DASS_OK);
    assert_fails(dass_config_parse(&config, "a.yaml", text, (1 << 20) + 1), DASS_CONFIG,
                 "a.yaml: a settings file of 1048577 bytes; at most 1048576 are read");
    memset(text, '[', 1 << 20);
    assert_int_equal(dass_config_parse(&config, "a.yaml", text, 1 << 20), DASS_CONFIG);
    memset(text, '{', 1 << 20);
    assert_int_equal(dass_config_parse(&config, "a.yaml", text, 1 << 20), DASS_CONFIG);
    memset(text, 'k', 300);
    (void)snprintf(text + 300, 10, ": 1\n");
    assert_int_equal(parse(text), DASS_CONFIG);
    assert_non_null(strstr(dass_error_text(), "kkk...' is too long"));
    /* The longest text, and one byte more. */
    int n = snprintf(text, sizeof text, "data.path: ");
    memset(text + n, 'p', 512);
    text[n + 511] = '\0';
    assert_int_equal(parse(text), DASS_OK);
    assert_int_equal(strlen(config.data_path), 511);
    text[n + 511] = 'p';
    text[n + 512] = '\0';
    assert_int_equal(parse(text), DASS_CONFIG);
    assert_non_null(strstr(dass_error_text(), "ppp...' is not a text of at most 511 bytes"));
    /* A file name longer than an origin keeps its end. */
    static char name[3000];
    memset(name, 'd', sizeof name - 1);
    memcpy(name + sizeof name - 8, "/b.yaml", 8);
    assert_int_equal(dass_config_parse(&config, name, "net.nodes: 3", 12), DASS_OK);
    assert_memory_equal(config.origin[DASS_KEY_net_nodes], "...ddd", 6);
    assert_non_null(strstr(config.origin[DASS_KEY_net_nodes], "dd/b.yaml:1"));
}

static void test_config_set(void **state)
{
    (void)state;
    dass_config_defaults(&config);
    assert_int_equal(dass_config_set(&config, "net.layers=20", "command line"), DASS_OK);
    assert_int_equal(config.net_layers, 20);
    assert_string_equal(config.origin[DASS_KEY_net_layers], "command line");
    assert_int_equal(dass_config_set(&config, "data.path=a=b c", "command line"), DASS_OK);
    assert_string_equal(config.data_path, "a=b c");
    assert_int_equal(dass_config_set(&config, "data.path=", "command line"), DASS_OK);
    assert_string_equal(config.data_path, "");
    assert_fails(dass_config_set(&config, "net.layers", "command line"), DASS_CONFIG,
                 "command line: 'net.layers' is not of the form key=value");
    assert_fails(dass_config_set(&config, "net.layer=3", "command line"), DASS_CONFIG,
                 "command line: unknown key 'net.layer' (did you mean 'net.layers'?)");
    assert_fails(dass_config_set(&config, "=3", "command line"), DASS_CONFIG,
                 "command line: unknown key '' ('dass help config' lists the keys)");
    assert_fails(dass_config_set(&config, "net.layers=", "command line"), DASS_CONFIG,
                 "command line: net.layers: '' is not an integer (number of cells)");
    assert_fails(dass_config_set(&config, "search.alpha=1", "command line"), DASS_CONFIG,
                 "command line: 'search.alpha' is a section; set one of its keys, such as "
                 "'search.alpha.lr'");
    assert_fails(dass_config_set(&config, "data.path=\xff", "command line"), DASS_CONFIG,
                 "command line: data.path: '?' is not a text of printable UTF-8 on one line "
                 "(folder of the data files)");
}

static void test_config_check(void **state)
{
    (void)state;
    static const struct {
        const char *set, *message;
    } cases[] = {
        {"net.image=0", "command line: net.image = 0 is out of range: expected at least 4 and at "
                        "most 4096 (height and width of an image as the network sees it)"},
        {"net.image=4097",
         "command line: net.image = 4097 is out of range: expected at least 4 "
         "and at most 4096 (height and width of an image as the network sees it)"},
        {"net.nodes=9", "command line: net.nodes = 9 is out of range: expected at least 1 and at "
                        "most 8 (intermediate nodes of a cell)"},
        {"net.layers=0", "command line: net.layers = 0 is out of range: expected at least 1 and at "
                         "most 256 (number of cells)"},
        {"search.density=0", "command line: search.density = 0 is out of range: expected more than "
                             "0 and at most 1 (fraction of weights kept in the score and finetune "
                             "stages, (0, 1])"},
        {"prune.density=1.5", "command line: prune.density = 1.5 is out of range: expected more "
                              "than 0 and at most 1 (fraction of weights kept, (0, 1])"},
        {"search.order=3", "command line: search.order = 3 is out of range: expected at least 1 "
                           "and at most 2 (1 = first order, 2 = unrolled second order)"},
        {"train.batch=0", "command line: train.batch = 0 is out of range: expected at least 1 and "
                          "at most 65536 (images of a training step)"},
        {"search.momentum=1", "command line: search.momentum = 1 is out of range: expected at "
                              "least 0 and less than 1 (SGD momentum)"},
        {"search.train_part=1",
         "command line: search.train_part = 1 is out of range: expected more than 0 and less than "
         "1 (share of the training images used for weights; the rest trains alpha)"},
        {"search.lr_min=0.5", "command line: search.lr_min = 0.5 is above search.lr = 0.025 "
                              "(default); the cosine falls from search.lr to search.lr_min"},
        {"train.warmup=600", "command line: train.warmup = 600 leaves no epoch of train.epochs = 600 (default) to the "
                             "cosine"},
    };
    for (size_t i = 0; i < N_OF(cases); i++) {
        dass_config_defaults(&config);
        assert_int_equal(dass_config_set(&config, cases[i].set, "command line"), DASS_OK);
        assert_fails(dass_config_check(&config), DASS_CONFIG, cases[i].message);
    }
    assert_int_equal(parse("net.name: resnet18\nnet.genotype: g.json\n"), DASS_OK);
    assert_fails(dass_config_check(&config), DASS_CONFIG,
                 "a.yaml:2: net.genotype = 'g.json' contradicts net.name = 'resnet18' (a.yaml:1): "
                 "a network has one source; clear one of them");
}

/* Negative one is wrong for every number, so each must have a range that says so. */
static void test_config_check_every_number(void **state)
{
    (void)state;
    size_t n_numbers = 0;
    for (size_t k = 0; k < DASS_N_KEYS; k++) {
        char set[256];
        (void)snprintf(set, sizeof set, "%s=-1", dass_config_key_name((dass_config_key)k));
        dass_config_defaults(&config);
        const char *def = dass_config_key_default((dass_config_key)k);
        const bool is_number = def[0] >= '0' && def[0] <= '9';
        if (!is_number)
            continue;
        n_numbers++;
        assert_int_equal(dass_config_set(&config, set, "command line"), DASS_OK);
        assert_int_equal(dass_config_check(&config), DASS_CONFIG);
        assert_non_null(strstr(dass_error_text(), dass_config_key_name((dass_config_key)k)));
        assert_non_null(strstr(dass_error_text(), " = -1 is out of range: expected "));
    }
    assert_true(n_numbers > 30);
}

static const char *printed(dass_config_key k)
{
    static char buf[DASS_CONFIG_PRINT_MAX];
    dass_config_print(&config, k, buf, sizeof buf);
    return buf;
}

static void test_config_print(void **state)
{
    (void)state;
    dass_config_defaults(&config);
    assert_string_equal(printed(DASS_KEY_net_layers), "8");
    assert_string_equal(printed(DASS_KEY_search_lr), "0.025");
    assert_string_equal(printed(DASS_KEY_train_clip), "5");
    assert_string_equal(printed(DASS_KEY_data_flip), "true");
    assert_string_equal(printed(DASS_KEY_net_form), "cifar");
    assert_string_equal(printed(DASS_KEY_net_name), "''");
    assert_string_equal(printed(DASS_KEY_data_path), "/usr/share/datasets/fashion-mnist");
    config.search_lr = 0.1 + 0.2;
    assert_string_equal(printed(DASS_KEY_search_lr), "0.30000000000000004");
    (void)snprintf(config.data_path, sizeof config.data_path, "it's");
    assert_string_equal(printed(DASS_KEY_data_path), "'it''s'");
    (void)snprintf(config.run_device, sizeof config.run_device, "null");
    assert_string_equal(printed(DASS_KEY_run_device), "'null'");
    /* A buffer too small is filled and ended. */
    char small[4] = "zzz";
    dass_config_print(&config, DASS_KEY_data_path, small, sizeof small);
    assert_string_equal(small, "'it");
}

/* All settings of `config` as a YAML text, read into config_b: values must be the same bits. */
static void round_trip(void)
{
    static char text[DASS_N_KEYS * (DASS_CONFIG_PRINT_MAX + 64)];
    size_t used = 0;
    for (size_t k = 0; k < DASS_N_KEYS; k++) {
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%s: %s\n",
                             dass_config_key_name((dass_config_key)k), printed((dass_config_key)k));
    }
    dass_config_defaults(&config_b);
    if (dass_config_parse(&config_b, "b.yaml", text, used) != DASS_OK) {
        print_error("%s\n%s\n", dass_error_text(), text);
        fail();
    }
#define SAME_INT(x, y)                 assert_true((x) == (y))
#define SAME_REAL(x, y)                assert_memory_equal(&(x), &(y), sizeof(double))
#define SAME_BOOL(x, y)                assert_true((x) == (y))
#define SAME_TEXT(x, y)                assert_string_equal((x), (y))
#define SAME_ENUM(x, y)                assert_string_equal((x), (y))
#define X(type, key, field, def, help) SAME_##type(config.field, config_b.field);
#include "dass/config.def"
#undef X
}

static void test_config_round_trip(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",      " ",   "~",    "null",     "yes",          "12",
        "1e3",   "#a",  "a: b", "'",        "''",           "a'b",
        "\"a\"", "- x", "[1]",  "{",        "*a",           "&a",
        "!t",    "%x",  "@",    "`",        "a#b",          " a ",
        "a\\n",  "|",   ">",    "\xc3\xa9", "\xe4\xb8\xad", "\xf0\x9f\x98\x80",
        "a,b",   "-",   "?"};
    dass_config_defaults(&config);
    round_trip();
    dass_rng r = dass_rng_make(11, DASS_RNG_TEST, dass_name_hash("round trip"), 0);
    for (size_t i = 0; i < N_OF(texts); i++) {
        char set[64];
        dass_config_defaults(&config);
        (void)snprintf(set, sizeof set, "data.path=%s", texts[i]);
        assert_int_equal(dass_config_set(&config, set, "command line"), DASS_OK);
        config.train_lr = ldexp(dass_rng_uniform(&r), (int)dass_rng_below(&r, 2000) - 1060);
        config.search_clip = -dass_rng_normal(&r);
        config.run_seed = (int64_t)((uint64_t)dass_rng_u32(&r) << 32 | dass_rng_u32(&r));
        config.data_flip = i % 2 == 0;
        round_trip();
    }
    /* The longest value there is: every byte a quote. */
    memset(config.data_path, '\'', DASS_TEXT_MAX - 1);
    config.data_path[DASS_TEXT_MAX - 1] = '\0';
    round_trip();
}

static void test_config_read(void **state)
{
    (void)state;
    char path[] = "/tmp/test_base_XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *file = fdopen(fd, "w");
    assert_non_null(file);
    assert_true(fputs("net:\n  layers: 11\n", file) >= 0);
    assert_int_equal(fclose(file), 0);
    const dass_mem_stats before = dass_mem_get_stats();
    dass_config_defaults(&config);
    assert_int_equal(dass_config_read(&config, path), DASS_OK);
    assert_int_equal(config.net_layers, 11);
    dass_text origin;
    (void)snprintf(origin, sizeof origin, "%s:2", path);
    assert_string_equal(config.origin[DASS_KEY_net_layers], origin);
    dass_mem_fail_at(1);
    assert_int_equal(dass_config_read(&config, path), DASS_NOMEM);
    assert_int_equal(remove(path), 0);
    assert_fails(dass_config_read(&config, "/nowhere/c.yaml"), DASS_IO,
                 "/nowhere/c.yaml: cannot open the settings file: No such file or directory");
    assert_fails(dass_config_read(&config, "/"), DASS_IO,
                 "/: cannot read the settings file: Is a directory");
    assert_int_equal(dass_mem_get_stats().n_live, before.n_live);
}

/* Damaged text must be refused or read, never crash: the sanitizers watch. */
static void test_config_damaged(void **state)
{
    (void)state;
    static const char start[] = "net:\n  layers: 8\n  form: cifar\nsearch: {density: 0.5, epochs: "
                                "{score: 3}}\ndata.path: 'it''s'\nrun.device: \"h\\x6fst\"\n";
    static const char spice[] = "{}[]:,-?&*!|>'\"%@` \n\t#~\\.0aE\xc3\xff";
    char text[sizeof start + 16];
    dass_rng r = dass_rng_make(5, DASS_RNG_TEST, dass_name_hash("damage"), 0);
    for (size_t round = 0; round < 3000; round++) {
        size_t n = sizeof start - 1;
        memcpy(text, start, n);
        for (uint32_t i = 1 + dass_rng_below(&r, 6); i > 0; i--) {
            const size_t at = dass_rng_below(&r, (uint32_t)n);
            const char c = spice[dass_rng_below(&r, sizeof spice - 1)];
            if (dass_rng_below(&r, 2) == 0) {
                text[at] = c;
            } else {
                memmove(text + at + 1, text + at, n - at);
                text[at] = c;
                n++;
            }
        }
        dass_config_defaults(&config);
        const dass_status st = dass_config_parse(&config, "a.yaml", text, n);
        assert_true(st == DASS_OK || st == DASS_CONFIG);
        if (st == DASS_CONFIG)
            assert_memory_equal(dass_error_text(), "a.yaml:", 7);
        if (st == DASS_OK)
            round_trip();
    }
}

static void test_nearest(void **state)
{
    (void)state;
    static const char *const words[] = {"search", "train", "prune", "eval", "bench"};
    assert_string_equal(dass_nearest("serch", words, N_OF(words)), "search");
    assert_string_equal(dass_nearest("trian", words, N_OF(words)), "train");
    assert_string_equal(dass_nearest("bench", words, N_OF(words)), "bench");
    assert_string_equal(dass_nearest("evaluate", words, 3) == NULL ? "none" : "some", "none");
    assert_null(dass_nearest("deploy", words, N_OF(words)));
    assert_null(dass_nearest("x", words, N_OF(words)));
    assert_null(dass_nearest("", words, N_OF(words)));
    assert_null(dass_nearest("search", words, 0));
    char longest[1000];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_null(dass_nearest(longest, words, N_OF(words)));
    const char *const with_long[] = {longest, "search"};
    assert_string_equal(dass_nearest("seach", with_long, 2), "search");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_defaults),
        cmocka_unit_test(test_config_parse),
        cmocka_unit_test(test_config_parse_nothing),
        cmocka_unit_test(test_config_errors),
        cmocka_unit_test(test_config_limits),
        cmocka_unit_test(test_config_set),
        cmocka_unit_test(test_config_check),
        cmocka_unit_test(test_config_check_every_number),
        cmocka_unit_test(test_config_print),
        cmocka_unit_test(test_config_round_trip),
        cmocka_unit_test(test_config_read),
        cmocka_unit_test(test_config_damaged),
        cmocka_unit_test(test_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
