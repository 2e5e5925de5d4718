"""The plots of the synthetic stories: what the hero wants, what goes wrong, what is tried, how it
ends.

A plot is a story's gold topic. `CLASSES` says what each plot's things are; the rest are rules.
"""

DEFAULT_CLASSES = {
    "obj": ("toy", "thing", "clothes"),
    "tool": ("thing",),
    "place": ("outdoors",),
    "place2": ("outdoors",),
    "room": ("indoors",),
    "food": ("food",),
    "animal": ("animal",),
    "plant": ("plant",),
}
CLASSES = {
    "lost": {},
    "friendship": {"obj": ("toy",)},
    "sharing": {"obj": ("toy", "food")},
    "courage": {"obj": ("toy", "thing")},
    "rescue": {"obj": ("animal",)},
    "cooking": {"obj": ("food",)},
    "building": {"obj": ("toy", "thing")},
    "race": {"obj": ("thing", "clothes")},
    "treasure": {"obj": ("thing", "toy")},
    "gardening": {"obj": ("plant",)},
    "mistake": {"obj": ("thing", "toy")},
    "birthday": {"obj": ("toy", "clothes", "thing")},
}

PLOTS = """
lost_want: @hero =have #obj.a , and @hero.he =love #obj.them very much .
lost_want: one $period , @hero =take #obj.the #place.to .
lost_want: @hero.his ( mother | father | brother | sister ) =have +give @hero.him #obj.a , and
  @hero.he =keep #obj.them in a $colour box/NOUN .
lost_want: every $period , @hero =play with #obj.the #place.in .
lost_trouble: but when @hero =look for #obj.the , #obj.it =be:obj not there . %upset
lost_trouble: suddenly the $weather =come , and #obj.the =fall:obj into the ( grass | mud | water )
  . %upset
lost_trouble: @hero =look in @hero.his bag/NOUN , but #obj.the =be:obj +go ! << oh no/X , where
  !be:obj my #obj ? >> %saidsad .
lost_trouble: a $size $animal =take #obj.the and =$move away . << ^stop ! >> %saidsad .
lost_try: @hero =$search under the $thing and behind the $plant , but #obj.the =be:obj not there .
lost_try: @hero =$search #place2.in for/ADP a long time . @hero.he =find $num $thing.pl , but not
  #obj.the .
lost_try: << have you +see my #obj.full ? >> =ask @hero . << I <see a $animal with #obj.a near the
  $outdoors , >> %fsaid .
lost_try: @friend =$search too , and @both ==look under every $plant .
lost_try: << #obj.it !be:obj $colour and $look , >> %said . << *do not ^worry , we will ^find
  #obj.them , >> %fsaid .
lost_try: @hero =ask @helper for/ADP help . << when did you last/ADV ^have #obj.them ? >> =ask
  @helper .
lost_good: at last/ADV , @hero =look ( in | under | behind ) the $thing , and there =be:obj
  #obj.the ! %glad
lost_good: then @friend =shout , << I <find #obj.them ! #obj.it <be:obj under the $plant ! >>. %glad
lost_good: << !be:obj this/DET yours/PRON ? >> =ask @helper . @helper.he =have +find #obj.the
  #place2.in . %glad
lost_bad: @hero never =find #obj.the . %upset
lost_bad: in the end , @hero =find #obj.the in the mud , but #obj.it =be:obj +break . %upset
lost_bad: it =become dark , and @hero =have to ^go home without #obj.the . %upset

friendship_want: @hero =have $num $toy.pl but no friend to ^play with .
friendship_want: @hero =want a friend who =like #obj.pl and $food.pl .
friendship_want: @hero =be new in $town , and @hero.he =feel $upset .
friendship_trouble: @hero =see @friend , but @hero.he =be too $upset to ^say hello/NOUN .
friendship_trouble: @friend =play with #obj.a and =do not ^look at @hero .
friendship_trouble: << can I ^play too ? >> =ask @hero . << no/X , I *want to ^play alone , >>
  %fsaid . %upset
friendship_try: @hero =give @friend a $tasty $food . << is this/DET for/ADP me ? >> =ask @friend .
friendship_try: @hero =show @friend how to ^play with #obj.the .
friendship_try: << I *like your #obj.full , >> %said . << do you ^want to ^see my $toy ? >>.
friendship_try: @hero =draw a picture of a $animal and =give it to/ADP @friend .
friendship_try: @friend =fall and =hurt @friend.his $bodypart . @hero =$move to ^help @friend.him .
friendship_good: @friend =smile . << let us ^be friend.s , >> %fsaid . @both ==play until ( sunset
  | bedtime ) . %glad
friendship_good: soon @both ==be ~laugh together . now @hero =have a true/ADJ friend . %glad
friendship_good: << you *be so $kind , >> %fsaid . << will you ^come again tomorrow ? >> << yes !
  >> %said . %glad
friendship_bad: but @friend only =shake @friend.his head/NOUN and =$move away . %upset
friendship_bad: the next day , @friend =have to ^leave $town for/ADP ever/ADV . %upset
friendship_bad: @friend =be too $naughty , so @hero =go away alone . %upset

sharing_want: @hero =have #obj.a , and @friend =want #obj.them too .
sharing_want: @helper =give @hero #obj.a . << please ^share #obj.them with @friend.n , >> %hsaid .
sharing_want: @both ==find #obj.a under a $plant #place.in .
sharing_trouble: << #obj.it !be:obj mine/PRON ! >> %saidsad . @friend =$sayupset .
sharing_trouble: @hero =hide #obj.the behind a $thing , because @hero.he =be $naughty .
sharing_trouble: @friend =ask for/ADP #obj.the , but @hero =say no/X . << you *be $naughty ! >>
  =cry @friend .
sharing_try: @hero =think about it for/ADP a $size while/NOUN . @hero.he =see that/ADP @friend =be
  $upset .
sharing_try: << a $kind friend always !share , >> %hsaid .
sharing_try: @friend =sit down alone and =eat a $tasty $food .
sharing_try: << once I <have $num $toy.pl , >> %hsaid , <<- but I <have nobody to ^play with . >>.
sharing_good: << sorry , >> %said . << here , you can ^have #obj.the first . >>. @both ==be
  friend.s again . %glad
sharing_good: so @hero =share #obj.the with @friend , and it =be much more fun . %glad
sharing_good: @hero =say sorry and =give #obj.the to/ADP @friend . << *thank you , >> %fsaid , <<-
  you *be so $kind ! >>. %glad
sharing_bad: @both ==pull and ==pull until #obj.the =break:obj . %upset
sharing_bad: @friend =go home , and @hero =have to ^play alone . %upset
sharing_bad: in the end , a $animal =take #obj.the away from both of them . %upset

courage_want: @hero =want to ^visit the $indoors , but @hero.he =be afraid of the dark/NOUN .
courage_want: at night , @hero =hear a $look noise in the $indoors .
courage_want: @hero =have to ^bring #obj.a to/ADP @helper , who =live on the other side of the
  $outdoors .
courage_trouble: a $stormy storm =come over $town . the thunder =be very loud . %upset
courage_trouble: there/PRT =be a $size shadow behind the $thing . << who is there ? >> %saidsad .
courage_trouble: suddenly the light =go out , and @hero =can not ^see @hero.his own $bodypart.pl .
  %upset
courage_try: << ^be brave , >> %hsaid . << fear is like a $weather . it never !stay for/ADP long .
  >>.
courage_try: << I am with you , >> %fsaid , and @friend.he =take @hero.his hand/NOUN .
courage_try: @hero =count to/ADP $num and =sing a $nice song .
courage_try: with #obj.the in @hero.his hand/NOUN , @hero =$move $fast through the dark/NOUN .
courage_good: it =be only a $size $animal ! @hero =laugh at @hero.his own fear . %glad
courage_good: @hero =open the door , and inside =be $num $kind $animal.pl . %glad
courage_good: then the $weather =stop , and @hero =be not afraid any/ADV more . %glad
courage_bad: but @hero =be too afraid , and @hero.he =run all the way home . %upset
courage_bad: @hero =fall over a $size stone/NOUN and =hurt @hero.his $bodypart . %upset
courage_bad: the noise =grow and =grow , and @hero =hide under the bed until morning . %upset

rescue_want: one $period , @hero =hear a $size cry/NOUN #place.in . there/PRT =be:obj #obj.a in the
  grass .
rescue_want: @hero =see #obj.a near the $plant . something =be wrong with #obj.them .
rescue_want: @hero =love the $animal.pl of $town , and @hero.he often =bring them $food.pl . one
  $period , #obj.the =come:obj to/ADP the $indoors .
rescue_trouble: #obj.the =be:obj +stick in a $size hole , and #obj.it =can not ^get out/ADV . %upset
rescue_trouble: #obj.the =have:obj +hurt #obj.its $bodypart on a $look stone/NOUN . << poor/ADJ
  #obj , >> %saidsad .
rescue_trouble: #obj.the =have:obj +fall into the water , and the water =be very deep . << help !
  >> %saidsad .
rescue_trouble: the $weather =have +break #obj.its nest , and #obj.it =have:obj nowhere/ADV to ^go .
rescue_try: @hero =pull with a $thing , but #obj.the =do:obj not ^move .
rescue_try: << we *need a $thing and $num $thing.pl , >> %fsaid .
rescue_try: @hero =give #obj.them some $food.pl and =talk to/ADP #obj.them $nicely .
rescue_try: << *do not ^be afraid , >> %said . << I will ^help you . >>.
rescue_try: @hero =$move to/ADP the $indoors to ^find @helper . << ^come quickly ! >> %said .
rescue_try: @both ==put a $thing into the hole , but it =be too ( short | small | narrow/ADJ ) .
rescue_good: at last/ADV , #obj.the =be:obj free/ADJ ! #obj.it =$move:obj around @hero and
  =lick:obj @hero.his $bodypart . %glad
rescue_good: together they ==pull #obj.the out/ADV . << now you *be safe , >> %said . %glad
rescue_good: @helper =put a bandage/NOUN on #obj.its $bodypart . soon #obj.it =can ^$play again .
  %glad
rescue_good: the next morning , #obj.the =be:obj well/ADJ again . #obj.it =bring:obj @hero a $nice
  $plant . %glad
rescue_bad: but @hero =come too late . #obj.the =be:obj +go . %upset
rescue_bad: #obj.the =be:obj so afraid that/ADP #obj.it =bite:obj @hero and =run:obj away . %upset
rescue_bad: nobody =can ^help , and #obj.the =have:obj to ^stay with the doctor for/ADP a long time
  . %upset

cooking_want: @hero =want to ^make #obj.a for/ADP @hero.his ( mother | father | family | sister |
  brother ) .
cooking_want: << today I will ^cook with #obj.pl and $food.pl , >> %said .
cooking_want: in the kitchen/NOUN of the $indoors , @hero =look for $food.pl , $food.pl and a $size
  $thing .
cooking_trouble: but there/PRT ==be no $food.pl left/ADJ . %upset
cooking_trouble: @hero =forget #obj.the in the oven , and soon the room =be full/ADJ of smoke/NOUN
  . %upset
cooking_trouble: a $naughty $animal =jump on the table and =eat $num $food.pl . << oh no/X ! >>
  %saidsad .
cooking_trouble: @hero =drop the $size bowl/NOUN , and there/PRT =be a mess on the floor . %upset
cooking_try: @hero =$move #place.to to ^get $num $food.pl .
cooking_try: << you can ^use my $food.pl , >> %hsaid . << they *be very $tasty . >>.
cooking_try: @hero =put $food.pl , $food.pl and $num $food.pl into the bowl/NOUN .
cooking_try: << how much honey do we ^need ? >> =ask @hero . << only a little/NOUN bit , >> %hsaid .
cooking_good: #obj.the =be:obj $tasty and $tasty ! everyone =want more/ADJ . %glad
cooking_good: << #obj.it !be:obj the best #obj in $town , >> %hsaid . %glad
cooking_good: soon the house/NOUN =smell $nice , and @both ==eat #obj.the with $food.pl . %glad
cooking_bad: #obj.the =taste:obj so bad/ADV that/ADP nobody =eat #obj.them . %upset
cooking_bad: in the end , #obj.the =be:obj black and hard , and @hero =have to ^eat a $food . %upset
cooking_bad: there/PRT ==be no more/ADJ $food.pl , and everyone =go to/ADP bed without supper .
  %upset

building_want: @hero =want to ^build #obj.a out of $thing.pl and $thing.pl .
building_want: << I will ^make the best #obj in $town , >> %said .
building_want: @hero =see #obj.a in the shop of the $job , but @hero.he =have no coin.s .
building_trouble: but every time @hero =try , #obj.the =fall:obj down/ADV . %upset
building_trouble: @hero =do not ^have a $thing , and without it @hero.he =can not ^begin . %upset
building_trouble: then the $weather =come and =break #obj.the . << all my work ! >> %saidsad .
building_try: @hero =draw a plan on a $size $thing .
building_try: @both ==look for/ADP $num $material $thing.pl #place.in .
building_try: << ^use a $thing , >> %hsaid . << it !make everything easier/ADJ . >>.
building_try: first , @hero =paint #obj.the $colour , and then @hero.he =put a $thing on top .
building_try: << will you ^help me ? >> =ask @hero . << yes , I am good at ~make $thing.pl , >>
  %fsaid .
building_good: after $num day.s , #obj.the =be:obj ready . everyone =clap . %glad
building_good: #obj.the =be:obj $nice and $look . << we <do it together ! >> %said . %glad
building_good: @hero =give #obj.the to/ADP @helper , who =be very $glad . %glad
building_bad: but #obj.the =break:obj on the first day . %upset
building_bad: @hero =lose a $thing , and #obj.the =be:obj never ready . %upset
building_bad: a $naughty $animal =sit on #obj.the , and that/DET =be the end of it . %upset

race_want: there/PRT =be a race from the $outdoors to/ADP the $indoors , and the prize =be #obj.a .
race_want: << I *run faster/ADV than you , >> =say @rival.intro . << no/X , you *do not , >> %said .
race_want: every year , the child.s of $town ==race for/ADP #obj.the .
race_trouble: @rival =be very $naughty and =push @hero into a $plant . %upset
race_trouble: @rival =$move so $fast that/ADP soon @hero =be far behind/ADV . %upset
race_trouble: in the middle of the race , @hero =fall and =hurt @hero.his $bodypart . %upset
race_trouble: << you will never ^win , >> =say @rival $badly . @hero =feel $upset .
race_try: @hero =$move $fast past $num $plant.pl and over a $size $thing .
race_try: @rival =stop to ^eat $num $food.pl under the $plant .
race_try: @hero =see that/ADP a $animal =need help , so @hero.he =stop .
race_good: at the finish , @hero =be first/ADJ ! @hero.he =get #obj.the . %glad
race_good: @hero =win by/ADP $num step.s , and even @rival =clap . %glad
race_good: @hero and @rival ==come to/ADP the finish at the same time and ==share #obj.the . %glad
race_bad: but @rival =be first/ADJ , and @rival.he =take #obj.the home . %upset
race_bad: @hero =come last/ADV . %upset
race_bad: @hero =lose the race by/ADP only one/NUM step . %upset

treasure_want: in a $look $thing , @hero =find a map of the $outdoors .
treasure_want: << there/PRT !be:obj #obj.a somewhere in the $outdoors , >> %hsaid . << nobody has
  ever +find #obj.them . >>.
treasure_want: a old story of $town =tell of #obj.a that/DET =lie:obj under a $plant .
treasure_trouble: but the map =be old , and half of it =be +eat by/ADP a $animal . %upset
treasure_trouble: @rival.intro =want #obj.the too . << I will ^find #obj.them first ! >> =shout
  @rival .
treasure_trouble: the way =be long , and @hero.his $bodypart =hurt . %upset
treasure_try: @both ==$move from the $outdoors to/ADP the $outdoors , and then $num step.s to/ADP
  the left/NOUN .
treasure_try: << ^look , there/PRT is a $colour stone/NOUN , >> %fsaid . << that/DET must ^be the
  place . >>.
treasure_try: @hero =dig a $size hole with a spade/NOUN , but there/PRT =be only a $look $thing in
  it .
treasure_try: a $kind $animal =show them the way through the $outdoors .
treasure_try: on the door of the $indoors ==be three/NUM word.s : << ^ask the $animal . >>.
treasure_good: under the $plant , they ==find #obj.the at last/ADV . #obj.it =be:obj $nice and
  $look . %glad
treasure_good: in the hole =lie:obj #obj.the , and under #obj.them ==be $num $colour $thing.pl .
  %glad
treasure_good: @hero =give #obj.the to/ADP the museum/NOUN of $town , and everyone =come to ^see
  #obj.them . %glad
treasure_bad: but somebody/PRON =have +be there before/ADV them . the hole =be empty . %upset
treasure_bad: the treasure =be only a $look $thing . %upset
treasure_bad: the $weather =take the map away , and nobody ever =find #obj.the . %upset

gardening_want: @helper =give @hero $num seed.s . << ^plant them #place.in , >> %hsaid .
gardening_want: @hero =want to ^grow #obj.a behind the $indoors .
gardening_want: every morning , @hero =bring a $size bucket/NOUN of water to/ADP #obj.the .
gardening_trouble: but #obj.the =do:obj not ^grow . << why ? >> %saidsad .
gardening_trouble: $num $animal.pl ==come in the night and ==eat the leaf.s of #obj.the . %upset
gardening_trouble: there/PRT =be no rain for/ADP $num week.s , and the ground =be hard . %upset
gardening_try: << plant.s *need sun , water and time , >> %hsaid . << ^be patient . >>.
gardening_try: @both ==build a $size fence out of $thing.pl .
gardening_try: @hero =sing to/ADP #obj.the every $period .
gardening_try: @hero =ask the $animal.pl to ^eat $food.pl instead .
gardening_good: one morning , #obj.the =be:obj tall and $colour . %glad
gardening_good: after $num day.s , #obj.the =have:obj $num $colour bud.s . << they *be $nice ! >>
  %said . %glad
gardening_good: soon everyone in $town =come to ^see #obj.the . %glad
gardening_bad: but the frost/NOUN =come , and #obj.the =die:obj . %upset
gardening_bad: a $naughty $animal =step on #obj.the , and it =be too late . %upset

mistake_want: @helper =have #obj.a , and nobody =can ^touch #obj.them .
mistake_want: << please *do not ^play with my #obj , >> %hsaid . << #obj.it !be:obj very old . >>.
mistake_want: @helper.intro =have #obj.a in the $indoors and =love #obj.them very much .
mistake_trouble: but @hero =be too $naughty . @hero.he =touch #obj.the , and #obj.it =fall:obj and
  =break:obj . %upset
mistake_trouble: while @hero =be ~play with a $toy , it =hit #obj.the . there/PRT =be a loud noise
  . %upset
mistake_trouble: @hero =hide #obj.the under a $colour blanket/NOUN and =tell nobody . %upset
mistake_try: @hero =think of a trick . << a $animal <do it , >> =$say @hero $badly .
mistake_try: << you should ^tell the truth/NOUN , >> %fsaid . << @helper will ^understand . >>.
mistake_try: @hero =try to ^fix #obj.the with glue and $num $thing.pl .
mistake_try: @hero =can not ^sleep , because @hero.he =feel so $upset .
mistake_good: << it <be me , >> %said . << I am so sorry/ADJ . >>. @helper =hug @hero . << *thank
  you for/ADP ~tell me , >> %hsaid . %glad
mistake_good: @hero =tell the truth/NOUN . @both ==fix #obj.the with $thing.pl , and #obj.it
  =be:obj as/ADV good as new . %glad
mistake_good: @helper =be not angry/ADJ . << everyone !make mistake.s , >> %hsaid . %glad
mistake_bad: @helper =find out/PRT and =be very $upset . %upset
mistake_bad: @helper never =trust @hero again . %upset
mistake_bad: @hero =have to ^clean the $indoors for/ADP $num day.s . %upset

birthday_want: tomorrow =be @friend.s birthday , and @hero =want to ^give @friend.him #obj.a .
birthday_want: it =be @hero.s birthday . @hero.he =hope for/ADP #obj.a .
birthday_want: << for/ADP my birthday I *want #obj.a , $num $food.pl and a $nice $toy , >> %said .
birthday_trouble: but #obj.the in the shop =be:obj too dear , and @hero =have only $num coin.s .
  %upset
birthday_trouble: nobody =come to/ADP the party , because the $weather =be so bad . %upset
birthday_trouble: everyone =have +forget it . nobody =say a word . %upset
birthday_try: @hero =help the $job and =get $num coin.s for/ADP it .
birthday_try: @hero =decorate the $indoors with $plant.pl and $num $colour ribbon.s .
birthday_try: << what is in the box/NOUN ? >> =ask @hero . << it is a secret , >> %fsaid .
birthday_try: @both ==eat a $tasty cake/NOUN with $num candle.s .
birthday_good: << surprise ! >> =shout everyone . in the box/NOUN =be:obj #obj.the . %glad
birthday_good: @friend =open the present and =see #obj.the . << it is the best present of all ! >>
  %fsaid . %glad
birthday_good: @helper.intro =bring #obj.the , and everyone =sing . %glad
birthday_bad: but the present =be not #obj.a . it =be only a $look $thing . %upset
birthday_bad: when @hero =open the box/NOUN , #obj.the =be:obj +break . %upset
birthday_bad: the party =be over/ADV , and nobody =have +bring #obj.a . %upset
"""
